"""``dinotile fetch``: what an earlier run left on a ComfyUI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .remote.address import DEFAULT_SERVER, MAX_BYTES
from .run import CaCert, Header, Insecure, MaxBytes, Overwrite, Server, Timeout, client_of, write


def fetch(
    prompt_id: Annotated[str, typer.Argument(metavar="PROMPT_ID", help="The run, as dinotile run named it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where its first picture goes.")],
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = 0,
    header: Header = None,
    cacert: CaCert = None,
    insecure: Insecure = False,
    max_bytes: MaxBytes = MAX_BYTES,
    overwrite: Overwrite = False,
) -> None:
    """Bring the files of a run that was sent before, once it has ended. Files of it that are there already stay."""
    from .remote.results import check_output

    check_output(output)
    start = time.perf_counter()
    client = client_of(server, timeout, header=header, cacert=cacert, insecure=insecure, max_bytes=max_bytes)
    outputs = client.outputs(prompt_id)
    if not outputs:
        raise ValueError(f"the run {prompt_id} left no file on {client.server}: look at its workflow")
    write(client, prompt_id, outputs, output, overwrite=overwrite, keep=True, start=start)
