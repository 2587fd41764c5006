"""The picture of a run's losses."""

import math

import numpy as np
import pytest

from dinotile.training.core.curve import MARGINS, PAPER, SIZE, SMOOTH, draw_curve, smooth


def heights(losses) -> list[float]:
    """Mean height in px above the axis of the smooth line, in the left and right tenth of the plot."""
    pixels = np.asarray(draw_curve(losses))
    found = (pixels == SMOOTH).all(-1)
    left, right = MARGINS[0], SIZE[0] - MARGINS[2]
    tenth = (right - left) // 10
    return [
        float(SIZE[1] - MARGINS[3] - np.nonzero(found[:, part])[0].mean())
        for part in (slice(left, left + tenth), slice(right - tenth, right))
    ]


def test_a_falling_loss_falls_from_left_to_right_on_an_axis_from_zero():
    first, last = heights([4 - 3 * step / 999 for step in range(1000)])
    height = SIZE[1] - MARGINS[1] - MARGINS[3]
    assert first == pytest.approx(height * 3.85 / 4, abs=8)
    assert last == pytest.approx(height * 1.2 / 4, abs=12)


def test_the_running_mean_takes_the_noise_away():
    losses = [1 + (-1) ** step * 0.5 for step in range(400)]
    assert smooth(losses)[-1] == pytest.approx(1)
    assert max(losses) - min(losses) == 1


@pytest.mark.parametrize("losses", [[0.5], [0.0, 0.0], [1e-9, 1e9], [1.0, math.nan, 2.0], [math.inf, 1.0]])
def test_odd_runs_are_drawn(losses):
    picture = draw_curve(losses)
    assert picture.size == SIZE
    assert (np.asarray(picture) == SMOOTH).all(-1).any()
    assert picture.getpixel((2, 2)) == PAPER


@pytest.mark.parametrize("losses", [[], [math.nan]])
def test_a_run_without_losses_is_refused(losses):
    with pytest.raises(ValueError, match="at least one step"):
        draw_curve(losses)
