"""``dinotile run``: a workflow on a running ComfyUI."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files.paths import expanded_text
from .bars import Bars, errors, followed
from .batch_report import leave_if
from .job_options import Only
from .lists import check_names, find_listed, lists_of, own_files
from .outputs import OVERWRITE, check_free, check_inputs_stay, plan_outputs
from .remote.address import DEFAULT_SERVER, MAX_BYTES

if TYPE_CHECKING:
    from .remote.answers import Output
    from .remote.client import ComfyClient

SERVER = "Address of a running ComfyUI: HOST:PORT, or https://USER:PASSWORD@HOST/PATH."
Server = Annotated[str, typer.Option(help=SERVER)]
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        help=f"{SERVER} Default: {DEFAULT_SERVER}. May be repeated: the pictures of a folder are then shared out.",
    ),
]
Timeout = Annotated[float, typer.Option(help="Seconds for upload, run and download together; 0 for no limit.")]
Header = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME=VALUE",
        help="Send this header with every request; may be repeated. DINOTILE_AUTH in the environment: a bearer token, or "
        "another value of Authorization.",
    ),
]
CaCert = Annotated[Path | None, typer.Option("--cacert", help="Certificates to trust, as a PEM file.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not check the server's certificate.")]
MaxBytes = Annotated[int, typer.Option(help="The largest file to bring back, bytes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)]

Manifest = Annotated[
    Path | None,
    typer.Option(
        metavar="JOBS.jsonl",
        help="Note there what became of each picture, a line each, and leave out what is done already, by the same workflow, "
        "of the same input.",
    ),
]


def run(
    workflow: Annotated[Path, typer.Argument(metavar="WORKFLOW.json", help="A workflow, exported as API.")],
    image: Annotated[
        str,
        typer.Option(
            metavar="IN",
            help="The picture for its LoadImage node; or a folder, a pattern or a list (LIST.jsonl) of many.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="Where its first picture goes; of many, a folder.")
    ],
    server: Servers = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Change an input; may be repeated.")
    ] = None,
    timeout: Timeout = 0,
    header: Header = None,
    cacert: CaCert = None,
    insecure: Insecure = False,
    max_bytes: MaxBytes = MAX_BYTES,
    overwrite: Overwrite = False,
    manifest: Manifest = None,
    only: Only = None,
) -> None:
    """Run a workflow on a ComfyUI server and bring its pictures and other files back (OUT, OUT-2, ...)."""
    access: dict[str, Any] = {"header": header, "cacert": cacert, "insecure": insecure, "max_bytes": max_bytes}
    output = expanded_text(output)
    servers, besides = server or [DEFAULT_SERVER], own_files(manifest)
    listed = find_listed([image], only=only, own=(), besides=besides)
    if not listed:
        typer.echo(f"no picture of {image} is {only}: nothing to do")
        return
    pictures = [each.source for each in listed]
    folder = Path(output).is_dir() or output.endswith(("/", os.sep))
    if len(servers) == len(pictures) == 1 and manifest is None and not folder and not listed[0].name:
        run_one(workflow, pictures[0], Path(output), servers[0], settings or [], timeout, access, overwrite=overwrite)
        return
    from .fleet import Fleet, run_fleet

    outputs = plan_outputs(pictures, output, names=[each.name for each in listed])
    check_names(listed, outputs)
    check_inputs_stay(outputs, lists_of([image], besides=besides))
    fleet = Fleet(
        list(zip(pictures, outputs, strict=True)),
        workflow,
        servers,
        make=lambda address: client_of(address, timeout, **access),
        folder=None if outputs[0] == Path(output) else Path(output),
        settings=settings or [],
        overwrite=overwrite,
    )
    followed(lambda bars: run_fleet(fleet, manifest, progress=bars))
    leave_if(fleet.failed, fleet.jobs)


def run_one(
    workflow: Path,
    image: Path,
    output: Path,
    server: str,
    settings: list[str],
    timeout: float,
    access: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    from .remote.results import check_output, places_taken
    from .remote.run import send, workflow_for

    inputs = [image, workflow]
    check_inputs_stay(places_taken(output), inputs)
    check_free([output], overwrite=overwrite)
    check_output(output)
    graph, start = workflow_for(workflow, image, settings), time.perf_counter()
    client = client_of(server, timeout, **access)
    with Bars() as bars:
        sent, outputs = send(client, graph, image, settings, bars)
    write(client, sent, outputs, output, inputs=inputs, overwrite=overwrite, start=start)
    if client.note:
        raise ValueError(client.note)


def client_of(
    server: str, timeout: float, *, header: list[str] | None, cacert: Path | None, insecure: bool, max_bytes: int
) -> ComfyClient:
    from .remote.client import ComfyClient

    trusted = cacert and str(cacert)
    return ComfyClient(
        server, timeout=timeout, headers=header or [], cacert=trusted, insecure=insecure, max_bytes=max_bytes
    )


def write(
    client: ComfyClient,
    sent: str,
    outputs: Sequence[Output],
    path: Path,
    *,
    inputs: Sequence[Path] = (),
    overwrite: bool,
    keep: bool = False,
    start: float,
) -> None:
    """Bring a run's files, with a line about each; where one is missing in the end, say how to get it."""
    from .remote.results import bring
    from .remote.run import fetchable

    try:
        with fetchable(client, sent):
            for brought in bring(client, outputs, path, inputs=inputs, overwrite=lambda place: overwrite, keep=keep):
                done = f"{time.perf_counter() - start:.1f} s" if brought.new else "was there already"
                typer.echo(f"{brought.place}  from {brought.output}  ({done})")
                if brought.note:
                    typer.echo(brought.note)
    except KeyboardInterrupt:
        errors.print(f"dinotile: {client.hint(sent)}", markup=False)
        raise
