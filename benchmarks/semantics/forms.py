"""The world's shapes in many forms: long and flat discs, slim and broad stars, thin and thick crosses.

A shape keeps its texture in all of its forms. Every object has a form of its own, a number from -1.1 to 1.1: at 0 it is as in the
world, where all of a shape look alike. Forms that something may learn from leave two gaps; those that are held out lie in the
gaps (``inside``) or beyond both ends (``outside``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dinotile.demo.train import world
from dinotile.demo.train.world import Array, Thing

Spread = Literal["trained", "inside", "outside"]
SPREADS: tuple[Spread, ...] = get_args(Spread)
RANGES: dict[Spread, tuple[tuple[float, float], ...]] = {  # of a form, without its sign
    "trained": ((0.0, 0.3), (0.45, 0.75)),
    "inside": ((0.33, 0.42),),
    "outside": ((0.85, 1.1),),
}


@dataclass(frozen=True)
class FormedScene(world.Scene):
    """spread: where the forms of its objects lie; an object's seed draws its own."""

    spread: Spread = "trained"

    def outline(self, thing: Thing, y: Array, x: Array) -> Array:
        return FORMS[thing.shape](y, x, form_of(thing, self.spread))


def scene(rng: np.random.Generator, *, spread: Spread) -> FormedScene:
    """``world.scene``, with a form for each object."""
    return FormedScene(**vars(world.scene(rng)), spread=spread)


def form_of(thing: Thing, spread: Spread) -> float:
    rng, ranges = np.random.default_rng((thing.seed, 1)), RANGES[spread]
    lengths = np.array([high - low for low, high in ranges])
    low, high = ranges[int(rng.choice(len(ranges), p=lengths / lengths.sum()))]
    return float(rng.choice((-1, 1)) * rng.uniform(low, high))


# As the world's shapes, with a form


def _disc(y: Array, x: Array, form: float) -> Array:
    return world.SHAPES[0](*_stretched(y, x, form))


def _rectangle(y: Array, x: Array, form: float) -> Array:
    return np.maximum(np.abs(y) - 0.78 * np.exp(-0.3 * form), np.abs(x) - 0.78 * np.exp(0.3 * form))


def _triangle(y: Array, x: Array, form: float) -> Array:
    return world.SHAPES[2](*_stretched(y, x, form))


def _star(y: Array, x: Array, form: float) -> Array:
    """Slimmer or broader rays."""
    sector = np.abs((np.arctan2(x, y) / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2 * np.pi / 5
    radius, slim = np.hypot(y, x), 2.1 * np.exp(0.5 * form)
    return 0.6 * (radius * np.cos(sector) + slim * radius * np.sin(sector) - 1.05)


def _cross(y: Array, x: Array, form: float) -> Array:
    """Thinner or thicker arms."""
    thick = 0.36 * np.exp(0.4 * form)
    wide, tall = (np.maximum(np.abs(a) - 0.95, np.abs(b) - thick) for a, b in ((y, x), (x, y)))
    return np.minimum(wide, tall)


def _crescent(y: Array, x: Array, form: float) -> Array:
    """A larger or smaller bite."""
    return np.maximum(np.hypot(y, x) - 1.0, 0.66 * np.exp(0.22 * form) - np.hypot(y, x - 0.62))


def _heart(y: Array, x: Array, form: float) -> Array:
    return world.SHAPES[6](*_stretched(y, x, form))


def _bar(y: Array, x: Array, form: float) -> Array:
    """Thinner or thicker, of one length."""
    thick = 0.3 * np.exp(0.4 * form)
    return np.hypot(np.maximum(np.abs(y) - 1.02 + thick, 0), np.maximum(np.abs(x) - 0.1, 0)) - thick


def _stretched(y: Array, x: Array, form: float) -> tuple[Array, Array]:
    return y * np.exp(0.3 * form), x * np.exp(-0.3 * form)


FORMS = (_disc, _rectangle, _triangle, _star, _cross, _crescent, _heart, _bar)
