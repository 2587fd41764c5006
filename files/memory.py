"""How much memory this machine has left."""

from __future__ import annotations

import os
import re
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that a process may still take without others being moved out, at most what its container allows; None where the
    system does not say."""
    found = []
    try:
        told = re.search(r"(?m)^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
        found += [int(told[1]) * 1024] if told else []
        most, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(0, most - used))
    except (OSError, ValueError):  # another system, or no bound
        pass
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)
