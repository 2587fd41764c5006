"""Which picture formats are written, and what fits into them."""

from __future__ import annotations

from pathlib import Path

from .writing import check_writable

LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".png": 2**31 - 1, ".tif": 2**31 - 1, ".tiff": 2**31 - 1}


def check_output(path: Path, *, height: int = 1, width: int = 1) -> None:
    """Raise ValueError where a picture of this size could not be written to ``path``; writes nothing that stays."""
    suffix = path.suffix.lower()
    if suffix not in LONGEST_SIDE:
        raise ValueError(f"output {path} ends in {suffix or 'nothing'}: end it in {', '.join(sorted(LONGEST_SIDE))}")
    if max(height, width) > LONGEST_SIDE[suffix]:
        raise ValueError(f"{width} x {height} px does not fit in a {suffix} file: write a .png")
    check_writable(path)
