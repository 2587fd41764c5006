"""A user's mistake is one sentence in the host's log too.

The host logs what ends a node twice: its message, and then the traceback. Where this pack itself raised a ValueError, the
message says what is wrong and what to do, and the traceback says nothing to who made the mistake. The page's report and
``/history`` keep it.
"""

from __future__ import annotations

import dis
import logging
import sys
from types import TracebackType

PACKAGE = __name__.rpartition(".hosts.")[0]
RAISE = dis.opmap["RAISE_VARARGS"]
OF_CODE = (TypeError, AttributeError, LookupError, AssertionError, ImportError, NameError)


def quieten_mistakes() -> None:
    """From now on."""
    logging.getLogger().addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record belongs in the log: all but the traceback of a mistake that is being handled."""
    told = isinstance(record.msg, str) and record.msg.startswith("Traceback (most recent call last)")
    return not (told and _is_mistake(sys.exc_info()[1]))


def _is_mistake(error: BaseException | None) -> bool:
    """Whether a ``raise`` of this package made it; a ValueError of what its code calls is a fault like any other, and so may be
    one that stands for an error of the code."""
    if error is not None and isinstance(error.__cause__, OF_CODE):
        return False
    trace: TracebackType | None = error.__traceback__ if isinstance(error, ValueError) else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_globals.get("__name__", "").startswith(f"{PACKAGE}."):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == RAISE
