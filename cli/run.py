"""``dinotile run``: a workflow on a running ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bars import Bars, errors
from .outputs import OVERWRITE, check_free, check_inputs_stay
from .remote.address import DEFAULT_SERVER, MAX_BYTES

if TYPE_CHECKING:
    from .remote.answers import Output
    from .remote.client import ComfyClient

Server = Annotated[
    str,
    typer.Option(help="Address of a running ComfyUI: HOST:PORT, or https://USER:PASSWORD@HOST/PATH."),
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


def run(
    workflow: Annotated[Path, typer.Argument(metavar="WORKFLOW.json", help="A workflow, exported as API.")],
    image: Annotated[Path, typer.Option(metavar="IN", help="The picture for its LoadImage node.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where its first picture goes.")],
    server: Server = DEFAULT_SERVER,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Change an input; may be repeated.")
    ] = None,
    timeout: Timeout = 0,
    header: Header = None,
    cacert: CaCert = None,
    insecure: Insecure = False,
    max_bytes: MaxBytes = MAX_BYTES,
    overwrite: Overwrite = False,
) -> None:
    """Run a workflow on a ComfyUI server and bring its pictures and other files back (OUT, OUT-2, ...)."""
    from .remote.results import check_output, places_taken
    from .remote.run import send, workflow_for

    inputs = [image, workflow]
    check_inputs_stay(places_taken(output), inputs)
    check_free([output], overwrite=overwrite)
    check_output(output)
    graph, start = workflow_for(workflow, image, settings or []), time.perf_counter()
    client = client_of(server, timeout, header=header, cacert=cacert, insecure=insecure, max_bytes=max_bytes)
    with Bars() as bars:
        sent, outputs = send(client, graph, image, settings or [], bars)
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
            for brought in bring(client, outputs, path, inputs=inputs, overwrite=overwrite, keep=keep):
                done = f"{time.perf_counter() - start:.1f} s" if brought.new else "was there already"
                typer.echo(f"{brought.place}  from {brought.output}  ({done})")
                if brought.note:
                    typer.echo(brought.note)
    except KeyboardInterrupt:
        errors.print(f"dinotile: {client.hint(sent)}", markup=False)
        raise
