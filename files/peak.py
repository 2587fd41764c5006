"""The largest memory of this process."""

from __future__ import annotations

import platform
import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def process_peak() -> int | None:
    """So far, in bytes; None where the system has no such count."""
    if STATUS.exists():  # Linux: getrusage also has what the process that started this one took
        found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="utf-8"))
        return None if found is None else 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
