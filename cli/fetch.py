"""``dinotile fetch``: what an earlier run left on a ComfyUI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .run import CaCert, Header, Insecure, MaxBytes, Overwrite, Server, Timeout, write


def fetch(
    prompt_id: Annotated[str, typer.Argument(metavar="PROMPT_ID", help="The run, as dinotile run named it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where its first picture goes.")],
    server: Server = "http://127.0.0.1:8188",
    timeout: Timeout = 0,
    header: Header = None,
    cacert: CaCert = None,
    insecure: Insecure = False,
    max_bytes: MaxBytes = 2 << 30,
    overwrite: Overwrite = False,
) -> None:
    """Bring the files of a run that was sent before, once it has ended. Files that are there already stay."""
    from .remote.client import ComfyClient
    from .remote.results import check_output

    check_output(output)
    start = time.perf_counter()
    client = ComfyClient(
        server,
        timeout=timeout,
        headers=header or [],
        cacert=cacert and str(cacert),
        insecure=insecure,
        max_bytes=max_bytes,
    )
    outputs = client.outputs(prompt_id)
    if not outputs:
        raise ValueError(f"the run {prompt_id} left no file on {client.server}: look at its workflow")
    write(client, prompt_id, outputs, output, overwrite=overwrite, keep=True, start=start)
