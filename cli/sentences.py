"""Which errors are the user's, and what they are told."""

from __future__ import annotations

import errno

from ..files.errors import printable, reason

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
    if _out_of_memory(error):
        return (
            "the device ran out of memory: use less at a time (tile, scale, batch), or --device cpu; upscale has --weights and "
            "--offload too"
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("dinotile.")
    return str(error) if isinstance(error, ValueError) and ours else None


def _out_of_memory(error: Exception) -> bool:
    """Whether torch or Python says so; of the CPU and of MPS, torch says it in a plain RuntimeError."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
