"""A workflow file and a picture, run on a ComfyUI server: ``dinotile run`` as a function."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.containers import opened
from ...files.paths import path_of
from ...files.progress import Progress
from .address import DEFAULT_SERVER, MAX_BYTES
from .answers import Output
from .client import ComfyClient
from .results import check_output, contents, place_of, store
from .workflow import Workflow, prepared, read_workflow

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class WorkflowResult:
    """``files``: as the server wrote them, in the order of node ids. ``note``: what it left out of the workflow, or empty.

    ``prompt_id``: the server's name of the run. ``outputs``: for each file the node that it comes from, and its name there.
    """

    files: list[bytes]
    note: str = ""
    prompt_id: str = ""
    outputs: Sequence[Output] = ()

    def __repr__(self) -> str:
        told = f"{len(self.files)} files, {sum(map(len, self.files)):,} bytes"
        return f"WorkflowResult({told}, prompt_id={self.prompt_id!r}, note={self.note[:60]!r})"

    @property
    def images(self) -> list[Image.Image]:
        """Those files that are pictures."""
        kept = [output.kept for output in self.outputs] or [False] * len(self.files)
        return [_image(content) for content, other in zip(self.files, kept, strict=True) if not other]

    def save(self, output: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write ``output``, and further pictures beside it with -2, -3, ..., each whole or not at all, pictures in the format of
        its ending.

        What a format cannot hold is a warning. Raises ValueError where a file is there already, unless ``overwrite``.
        """
        path, written = Path(output), []
        check_output(path)
        outputs = self.outputs or [Output("", "", path.name, "", "output")] * len(self.files)
        for number, (content, made) in enumerate(zip(self.files, outputs, strict=True), start=1):

            def fill(part: Path, content: bytes = content) -> None:
                part.write_bytes(content)

            stored = store(fill, made, place_of(path, number, made), overwrite=lambda place: overwrite)
            if stored.note:
                warnings.warn(stored.note, stacklevel=2)
            written.append(stored.place)
        return written


def run_workflow(
    workflow: str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    server: str = DEFAULT_SERVER,
    settings: Sequence[str] = (),
    timeout: float = 0,
    progress: Progress | None = None,
    headers: Sequence[str] = (),
    cacert: str | None = None,
    insecure: bool = False,
    max_bytes: int = MAX_BYTES,
) -> WorkflowResult:
    """Upload a picture, run an API workflow file on it, and bring its pictures back. Needs a running ComfyUI, and the extra
    ``dinotile[cli]`` here.

    ``settings``: "NODE.INPUT=VALUE" each, as for ``--set``; NODE is an id in the file, in subgraphs such as 40:2.
    ``timeout``: seconds for all of it, 0 for none. ``progress(node, done, total)`` hears of every node. ``headers``:
    "NAME=VALUE" each, sent with every request. ``cacert``: a file of certificates to trust. ``insecure``: trust any.
    ``max_bytes``: of one file. Raises ValueError for bad input, before anything is sent, and for what the server refuses.
    """
    graph = workflow_for(workflow, image, settings)
    client = ComfyClient(
        server, timeout=timeout, headers=headers, cacert=cacert, insecure=insecure, max_bytes=max_bytes
    )
    run, outputs = send(client, graph, Path(image), settings, progress)
    with fetchable(client, run):
        return WorkflowResult([contents(client, output) for output in outputs], client.note, run, outputs)


def workflow_for(workflow: str | os.PathLike[str], image: str | os.PathLike[str], settings: Sequence[str]) -> Workflow:
    """The nodes of a workflow file that can take the picture and the settings. Raises ValueError."""
    if isinstance(settings, str):
        raise ValueError(f"settings {settings!r} must be a list of such texts: write [{settings!r}]")
    graph = read_workflow(path_of(workflow, what="the workflow", do="give that of an API workflow file"))
    prepared(graph, image="", settings=settings)
    if not path_of(image, what="the picture").is_file():
        raise ValueError(f"{image} does not exist: give the path of a picture")
    return graph


def send(
    client: ComfyClient, graph: Workflow, image: Path, settings: Sequence[str], progress: Progress | None
) -> tuple[str, list[Output]]:
    """Upload the picture and run the workflow to its end: its id, and what it left on the server, which is something."""
    graph = prepared(graph, image=client.upload(image), settings=settings)
    run, outputs = client.run(graph, progress=progress)
    if client.note:
        outputs = [output for output in outputs if output.type == "output"]  # a preview is not what was to be saved
    if not outputs:
        raise ValueError(client.note or "the workflow ended without a picture: give it a SaveImage node")
    return run, outputs


@contextmanager
def fetchable(client: ComfyClient, run: str) -> Iterator[None]:
    """An error in it says how what is missing can still be had."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}; {client.hint(run)}") from error


def _image(content: bytes) -> Image.Image:
    with opened(BytesIO(content), max_megapixels=None) as image:
        return image.copy()
