"""Memory of this process as Linux counts it. ``getrusage`` will not do: its peak is also that of the process it was forked
from, and never falls."""

from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def restart_peak() -> float:
    """GiB that are held now; ``peak`` counts from here."""
    CLEAR.write_text("5")
    return peak()


def peak() -> float:
    """GiB that were held at most since the process or ``restart_peak`` began."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20
