"""A world in which the right texture is known and follows from the whole shape.

A picture shows two to four flat shapes on a pale ground. Every shape has its own texture, always the same one: discs are
furry, squares of straw and so on. Colour, size, place and light are random, and within limits the angles of
shape and texture and the texture's scale. The source that an upscaler gets keeps shapes, mean colours and light, but no texture
at all: it is the same scene drawn without. Tiles are smaller than most objects and show a piece of an outline, which tells the
shape the less, the smaller they are; who sees the whole shape knows its texture. docs/evidence.md says how much a tile tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

Array = np.ndarray
SIDE = 384  # px of a true picture
FACTOR = 4  # the source is this many times smaller
# The textures of SHAPES, in their order: width and length of their soft streaks, and their lean from upright in radians. No
# lattices (bricks, woven cloth): a FLUX of four million parameters did not learn to keep their rhythm from token to token,
# whatever told it the texture.
STREAKS = {
    "fur": (0.36, 2.0, 0.0),
    "straw": (0.36, 2.0, np.pi / 2),
    "bark": (0.95, 3.2, 0.0),
    "water": (0.95, 3.2, np.pi / 2),
    "grass": (0.6, 2.6, np.pi / 4),
    "rain": (0.6, 2.6, -np.pi / 4),
    "pebbles": (1.0, 1.0, 0.0),
    "sand": (0.36, 0.36, 0.0),
}
TEXTURES = tuple(STREAKS)
GROUND = len(TEXTURES)  # the label of what is no object
SOFTNESS = 2.0  # px: textures without edges, which a toy FLUX can learn to draw
TEXT_TOKENS = 8
_WORDS = np.random.default_rng(0).standard_normal((len(TEXTURES), 4096)).astype(np.float32) * 0.2
_POOLED = np.random.default_rng(1).standard_normal((len(TEXTURES), 768)).astype(np.float32) * 0.5
CONTRAST = 0.30  # of textures


@dataclass(frozen=True)
class Thing:
    """One object. shape, texture: indices in SHAPES and TEXTURES, the same one in the world. Lengths in px, angles in
    radians."""

    shape: int
    texture: int
    top: float
    left: float
    radius: float
    angle: float
    colour: tuple[float, float, float]
    texture_angle: float
    texture_scale: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """things: hardly any touch. light: angle and strength of a slope of brightness. ground: its grey. contrast: standard
    deviation of textures, as a share of their colour."""

    things: tuple[Thing, ...]
    light: tuple[float, float]
    ground: float
    contrast: float = CONTRAST

    def true(self) -> Array:
        """The picture with its textures, [SIDE, SIDE, 3] float32 in 0..1."""
        return self._draw(textured=True)

    def flat(self) -> Array:
        """The same picture without textures, [SIDE, SIDE, 3] float32 in 0..1."""
        return self._draw(textured=False)

    def source(self) -> Array:
        """The low-resolution source [SIDE / FACTOR, SIDE / FACTOR, 3]: the flat picture, averaged over cells."""
        cells = SIDE // FACTOR
        return self.flat().reshape(cells, FACTOR, cells, FACTOR, 3).mean((1, 3))

    def labels(self) -> Array:
        """The texture that belongs to every pixel, GROUND where there is none, [SIDE, SIDE] int64."""
        labels = np.full((SIDE, SIDE), GROUND, np.int64)
        for thing in self.things:
            labels[self.mask(thing) > 0.5] = thing.texture
        return labels

    def mask(self, thing: Thing) -> Array:
        """How much of every pixel the object covers, [SIDE, SIDE] float32."""
        return np.clip(0.5 - self.outline(thing, *self._around(thing)) * thing.radius, 0, 1).astype(np.float32)

    def outline(self, thing: Thing, y: Array, x: Array) -> Array:
        """The distance of points in the object's own frame from its outline, in radii, negative inside."""
        return SHAPES[thing.shape](y, x)

    def exchanged(self, rng: np.random.Generator) -> Scene:
        """The same places and colours with other shapes, and so with other textures."""
        kinds = [int(rng.choice([k for k in range(len(SHAPES)) if k != thing.shape])) for thing in self.things]
        things = (replace(thing, shape=kind, texture=kind) for thing, kind in zip(self.things, kinds, strict=True))
        return replace(self, things=tuple(things))

    def _around(self, thing: Thing) -> tuple[Array, Array]:
        """Coordinates in the object's own frame: its centre is 0, its radius 1."""
        y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
        return turned((y - thing.top) / thing.radius, (x - thing.left) / thing.radius, thing.angle)

    def _draw(self, *, textured: bool) -> Array:
        y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
        picture = np.full((SIDE, SIDE, 3), self.ground, np.float32)
        for thing in self.things:
            mask = self.mask(thing)[..., None]
            tone = 1 + self.contrast * _texture(thing, mask[..., 0])[..., None] if textured else 1.0
            picture = picture * (1 - mask) + mask * np.asarray(thing.colour, np.float32) * tone
        angle, strength = self.light
        slope = 1 + strength * (np.cos(angle) * y + np.sin(angle) * x)
        return np.clip(picture * slope[..., None], 0, 1).astype(np.float32)


def scene(rng: np.random.Generator, *, shuffled: bool = False, contrast: float = CONTRAST) -> Scene:
    """A random scene of two to four objects, of which corners may touch. shuffled: textures that do not follow from shapes."""
    things: list[Thing] = []
    wanted = int(rng.integers(2, 5))
    for _ in range(60):
        if len(things) == wanted:
            break
        radius = rng.uniform(72, 105)
        top, left = rng.uniform(0.6 * radius, SIDE - 0.6 * radius, 2)
        if all(np.hypot(top - o.top, left - o.left) > 0.95 * (radius + o.radius) for o in things):
            texture = int(rng.integers(len(TEXTURES))) if shuffled else None
            things.append(_thing(rng, top=top, left=left, radius=radius, texture=texture))
    light = (rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35))
    return Scene(tuple(things), light, rng.uniform(0.72, 0.9), contrast)


def present(labels: Array) -> list[int]:
    """The textures that cover at least 3 % of a window of labels."""
    counts = np.bincount(labels.ravel(), minlength=GROUND + 1)[:GROUND]
    return [kind for kind, count in enumerate(counts) if count >= 0.03 * labels.size]


def caption(textures: Sequence[int]) -> Array:
    """Text tokens [TEXT_TOKENS, 4096] float32 that name up to TEXT_TOKENS textures, zeros behind: what T5 would say, in a
    language of eight words."""
    tokens = np.zeros((TEXT_TOKENS, 4096), np.float32)
    tokens[: len(textures)] = _WORDS[list(textures)]
    return tokens


def pooled_caption(textures: Sequence[int]) -> Array:
    """The same as one vector [768] float32, as CLIP would say it; zeros for none."""
    return _POOLED[list(textures)].sum(0)


def _thing(rng: np.random.Generator, *, top: float, left: float, radius: float, texture: int | None) -> Thing:
    kind = int(rng.integers(len(SHAPES)))
    hue, value, saturation = rng.random(), rng.uniform(0.42, 0.52), rng.uniform(0.15, 0.5)
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colour = value * (1 - saturation * (1 - wheel))  # value is the brightest channel: textures and light never clip it
    return Thing(
        shape=kind,
        texture=kind if texture is None else texture,
        top=top,
        left=left,
        radius=radius,
        angle=rng.uniform(-0.3, 0.3),
        colour=tuple(float(c) for c in colour),
        texture_angle=rng.uniform(-0.3, 0.3),
        texture_scale=rng.uniform(20, 24),
        seed=int(rng.integers(2**31)),
    )


# Shapes: signed distances (roughly, in radii; negative inside) of points in the object's own frame


def _disc(y: Array, x: Array) -> Array:
    return np.hypot(y, x) - 0.9


def _square(y: Array, x: Array) -> Array:
    return np.maximum(np.abs(y), np.abs(x)) - 0.78


def _triangle(y: Array, x: Array) -> Array:
    return np.maximum.reduce([y, -0.5 * y + 0.866 * x, -0.5 * y - 0.866 * x]) - 0.55


def _star(y: Array, x: Array) -> Array:
    sector = np.abs((np.arctan2(x, y) / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2 * np.pi / 5
    radius = np.hypot(y, x)
    return 0.6 * (radius * np.cos(sector) + 2.1 * radius * np.sin(sector) - 1.05)


def _cross(y: Array, x: Array) -> Array:
    wide, tall = (np.maximum(np.abs(a) - 0.95, np.abs(b) - 0.36) for a, b in ((y, x), (x, y)))
    return np.minimum(wide, tall)


def _crescent(y: Array, x: Array) -> Array:
    return np.maximum(np.hypot(y, x) - 1.0, 0.66 - np.hypot(y, x - 0.62))


def _heart(y: Array, x: Array) -> Array:
    x, y = np.abs(x) / 0.95, -y / 0.95 + 0.1
    lobes = np.hypot(x - 0.42, y - 0.3) - 0.5
    point = np.maximum((x - y) * 0.7071 - 0.62 + 0.05 * y, y - 0.35)
    return np.minimum(lobes, np.maximum(point, x - 0.93))


def _bar(y: Array, x: Array) -> Array:
    return np.hypot(np.maximum(np.abs(y) - 0.72, 0), np.maximum(np.abs(x) - 0.1, 0)) - 0.3


SHAPES = (_disc, _square, _triangle, _star, _cross, _crescent, _heart, _bar)


# Textures: random fields with a direction and a fineness, in units of the texture's scale


def _texture(thing: Thing, mask: Array) -> Array:
    """[SIDE, SIDE] float32, of mean 0 and standard deviation 1 (less what is clipped) where the mask is."""
    rows, columns = (slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    y, x = turned((y - thing.top) / thing.texture_scale, (x - thing.left) / thing.texture_scale, thing.texture_angle)
    tone = _streaks(y, x, _Hash(thing.seed), *STREAKS[TEXTURES[thing.texture]])
    tone = gaussian_filter(tone, SOFTNESS) - gaussian_filter(tone, thing.texture_scale)  # colour and light stay
    mean = np.average(tone, weights=mask[rows, columns])
    spread = np.average((tone - mean) ** 2, weights=mask[rows, columns]) ** 0.5
    whole = np.zeros_like(mask)
    whole[rows, columns] = np.clip((tone - mean) / spread, -2, 2)
    return whole


class _Hash:
    """Random numbers in 0..1 that belong to whole-numbered places."""

    def __init__(self, seed: int) -> None:
        self.table = np.random.default_rng(seed).random((4, 64, 64)).astype(np.float32)

    def __call__(self, row: Array, column: Array, *, channel: int = 0) -> Array:
        return self.table[channel, row.astype(np.int64) % 64, column.astype(np.int64) % 64]

    def smooth(self, y: Array, x: Array, *, channel: int = 0) -> Array:
        """Value noise with one blob per unit."""
        row, column = np.floor(y), np.floor(x)
        v, u = y - row, x - column
        v, u = v * v * (3 - 2 * v), u * u * (3 - 2 * u)
        corners = [[self(row + i, column + j, channel=channel) for j in (0, 1)] for i in (0, 1)]
        above, below = (left + (right - left) * u for left, right in corners)
        return above + (below - above) * v


def _streaks(y: Array, x: Array, random: _Hash, width: float, length: float, lean: float) -> Array:
    y, x = turned(y, x, lean)
    bent = x + 0.3 * width * random.smooth(y / length, x / width / 3, channel=1)
    fine = random.smooth(1.7 * y / length, 1.7 * bent / width, channel=2)
    return random.smooth(y / length, bent / width) + 0.5 * fine


def turned(y: Array, x: Array, angle: Array | float) -> tuple[Array, Array]:
    return np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
