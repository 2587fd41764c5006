"""A workflow file and a picture, run on a ComfyUI server: ``dinotile run`` as a function."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.progress import Progress
from ...files.writing import replacing
from .address import DEFAULT_SERVER, MAX_BYTES
from .answers import Output
from .client import ComfyClient
from .results import check_output, contents, in_format_of, place_of
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

    @property
    def images(self) -> list[Image.Image]:
        """Those files that are pictures."""
        from PIL import Image

        kept = [output.kept for output in self.outputs] or [False] * len(self.files)
        return [Image.open(BytesIO(content)) for content, other in zip(self.files, kept, strict=True) if not other]

    def save(self, output: str | os.PathLike[str]) -> list[Path]:
        """Write ``output``, and further pictures beside it with -2, -3, ..., each whole or not at all."""
        check_output(Path(output))
        return save_files(self.files, Path(output), self.outputs)


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
    """Upload a picture, run an API workflow file on it, and bring its pictures back.

    ``settings``: "NODE.INPUT=VALUE" each, as for ``--set``. ``timeout``: seconds for all of it, 0 for none. ``progress(node,
    done, total)`` hears of every node. ``headers``: "NAME=VALUE" each, sent with every request. ``cacert``: a file of
    certificates to trust. ``insecure``: trust any. ``max_bytes``: of one file. Raises ValueError for bad input, before anything
    is sent, and for what the server refuses.
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
    graph = read_workflow(Path(workflow))
    prepared(graph, image="", settings=settings)
    if not Path(image).is_file():
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


def save_files(contents: Sequence[bytes], path: Path, outputs: Sequence[Output] = ()) -> list[Path]:
    """Write files to ``path``, and further ones to ``path`` with -2, -3, ...; pictures in the format of its ending."""
    written = []
    for number, content in enumerate(contents, start=1):
        output = outputs[number - 1] if outputs else None
        place = place_of(path, number, output)
        with replacing(place) as part:
            converted = None if output and output.kept else in_format_of(place, content)
            part.write_bytes(content if converted is None else converted)
        written.append(place)
    return written
