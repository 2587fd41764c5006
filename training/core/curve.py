"""The loss of a run as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIZE = 960, 480  # width, height in px
MARGINS = 72, 24, 24, 44  # left, top, right, bottom
LINES = 4  # of the grid, in each direction
PARTS = 20  # the smooth line is the mean of the last 1/PARTS of the run
PAPER, GRID, INK, SINGLE, SMOOTH = (255, 255, 255), (225, 225, 225), (70, 70, 70), (170, 190, 225), (30, 70, 160)


def draw_curve(losses: Sequence[float], *, every: int = 1) -> Image.Image:
    """One point per ``every`` steps and their running mean, on a vertical axis from 0.

    Raises ValueError where there is no finite loss.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise ValueError("there is no loss to draw: train at least one step")
    picture = Image.new("RGB", SIZE, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    left, top, right, bottom = MARGINS[0], MARGINS[1], SIZE[0] - MARGINS[2], SIZE[1] - MARGINS[3]
    highest = _round_up(max(finite))

    def at(index: float, loss: float) -> tuple[float, float]:
        share = index / max(1, len(losses) - 1)
        return left + (right - left) * share, bottom - (bottom - top) * loss / highest

    for line in range(LINES + 1):
        loss, index = highest * line / LINES, (len(losses) - 1) * line / LINES
        draw.line([at(0, loss), (right, at(0, loss)[1])], fill=GRID)
        draw.text((left - 8, at(0, loss)[1]), f"{loss:.3g}", fill=INK, font=font, anchor="rm")
        draw.text((at(index, 0)[0], bottom + 8), f"{round(every * (1 + index))}", fill=INK, font=font, anchor="mt")
    draw.text((right, top), f"loss by step, last mean {smooth(losses)[-1]:.4g}", fill=INK, font=font, anchor="rb")
    for values, colour, width in ((losses, SINGLE, 1), (smooth(losses), SMOOTH, 3)):
        points = [at(i, loss) for i, loss in enumerate(values) if math.isfinite(loss)]
        draw.line(points if len(points) > 1 else points * 2, fill=colour, width=width)
    return picture


def smooth(losses: Sequence[float]) -> list[float]:
    """The mean of each step and those before it, as many as a twentieth of the run; what is not finite is left out."""
    length, means, kept = max(1, len(losses) // PARTS), [], []
    for loss in losses:
        if math.isfinite(loss):
            kept.append(loss)
        part = kept[-length:]
        means.append(sum(part) / len(part) if part else math.nan)
    return means


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten, which quarters read well."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if power * step >= value * (1 - 1e-9))
