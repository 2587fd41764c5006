"""A workflow file and a picture, run on a ComfyUI server: ``dinotile run`` as a function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.progress import Progress
from ...files.writing import check_picture_output, replacing
from .client import DEFAULT_SERVER, ComfyClient
from .workflow import prepared, read_workflow

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class WorkflowResult:
    """``files``: the pictures' files as the server wrote them. ``note``: what it left out of the workflow, or empty."""

    files: list[bytes]
    note: str = ""

    @property
    def images(self) -> list[Image.Image]:
        from PIL import Image

        return [Image.open(BytesIO(content)) for content in self.files]

    def save(self, output: str | os.PathLike[str]) -> list[Path]:
        """Write ``output``, and further pictures beside it with -2, -3, ..., each whole or not at all."""
        check_picture_output(Path(output))
        return save_files(self.files, Path(output))


def run_workflow(
    workflow: str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    server: str = DEFAULT_SERVER,
    settings: Sequence[str] = (),
    timeout: float = 0,
    progress: Progress | None = None,
) -> WorkflowResult:
    """Upload a picture, run an API workflow file on it, and bring its pictures back.

    ``settings``: "NODE.INPUT=VALUE" each, as for ``--set``. ``timeout``: seconds, 0 for none. ``progress(node, done,
    total)`` hears of every node. Raises ValueError for bad input, before anything is sent, and for what the server refuses.
    """
    if isinstance(settings, str):
        raise ValueError(f"settings {settings!r} must be a list of such texts: write [{settings!r}]")
    graph, picture = read_workflow(Path(workflow)), Path(image)
    prepared(graph, image="", settings=settings)  # complains before anything is sent
    if not picture.is_file():
        raise ValueError(f"{picture} does not exist: give the path of a picture")
    client = ComfyClient(server)
    graph = prepared(graph, image=client.upload(picture), settings=settings)
    files = client.run(graph, timeout=timeout, progress=progress)
    return WorkflowResult(files, client.note)


def save_files(contents: Sequence[bytes], path: Path) -> list[Path]:
    """Write picture files to ``path``, and further ones to ``path`` with -2, -3, ... in the format of its ending."""
    written = []
    for number, content in enumerate(contents, start=1):
        place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with replacing(place) as part:
            part.write_bytes(_in_format_of(place, content))
        written.append(place)
    return written


def _in_format_of(path: Path, content: bytes) -> bytes:
    """A picture file's bytes, as they came where they already have the format of the ending."""
    from PIL import Image

    wanted = Image.registered_extensions()[path.suffix.lower()]
    with Image.open(BytesIO(content)) as image:
        if image.format == wanted:
            return content
        converted = BytesIO()
        (image.convert("RGB") if wanted == "JPEG" else image).save(converted, format=wanted, quality=95)
        return converted.getvalue()
