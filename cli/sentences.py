"""Which errors are the user's, and what they are told."""

from __future__ import annotations

import errno

from ..files.errors import out_of_memory, printable, reason

# What the system says of a path, wherever it was first looked at.
NO_PATH, CLOSED = "is no path ({}): check the name", "may not be read ({}): change its permissions or take another"
PATHS = {errno.ENAMETOOLONG: NO_PATH, errno.ELOOP: NO_PATH, errno.EACCES: CLOSED, errno.EPERM: CLOSED}


def for_the_user(error: Exception) -> str | None:
    """The sentence of an error that the user can do something about, or None for a fault of the program.

    Those are the command line's own, and ValueErrors that this package (not a library below it) raised.
    """
    if hasattr(error, "format_message"):  # typer's, whichever click it carries
        return error.format_message()  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.filename is not None and error.errno in PATHS:
        return f"{printable(str(error.filename), most=200)} {PATHS[error.errno].format(reason(error))}"
    if out_of_memory(error):
        return (
            "the device ran out of memory: use less at a time (tile, scale, batch), or --device cpu; upscale has --weights and "
            "--offload too"
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("dinotile.")
    return str(error) if isinstance(error, ValueError) and ours else None
