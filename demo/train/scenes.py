"""Procedural pictures: shapes filled with textures, so that the demo models see more than a dozen photographs."""

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

Array = np.ndarray
SIDE = 256


def scene(rng: np.random.Generator) -> Array:
    """A picture [SIDE, SIDE, 3] uint8: a textured ground, two to six textured shapes, thin marks, one light."""
    picture = _texture(rng)
    for _ in range(rng.integers(2, 7)):
        mask = gaussian_filter(_shape(rng).astype(np.float32), rng.uniform(0.4, 1.2))[..., None]
        shadow = 1 - 0.5 * rng.random() * gaussian_filter(np.roll(mask[..., 0], (5, 4), (0, 1)), 4)[..., None]
        picture = mask * _texture(rng) * _round_light(mask[..., 0], rng) + (1 - mask) * picture * shadow
    if rng.random() < 0.4:
        picture = _marks(picture, rng)
    light = 1 + rng.uniform(0, 0.4) * _noise(rng, 2)[..., None]
    return (np.clip(picture * light, 0, 1) * 255).round().astype(np.uint8)


def _noise(rng: np.random.Generator, cells: float, *, stretch: float = 1.0, octaves: int = 1) -> Array:
    """Smooth noise [SIDE, SIDE] in about -1..1 with `cells` blobs per side; `stretch` > 1 makes vertical streaks."""
    total = np.zeros((SIDE, SIDE), np.float32)
    for octave in range(octaves):
        rows = max(2, int(cells * 2**octave / stretch))
        columns = max(2, int(cells * 2**octave))
        grid = rng.standard_normal((min(rows, SIDE), min(columns, SIDE))).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) * 0.55**octave
    return total / (np.abs(total).max() + 1e-6)


def _warp(plane: Array, rng: np.random.Generator, *, pixels: float) -> Array:
    """The plane bent by smooth offsets and turned by a random angle."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) - SIDE / 2
    angle = rng.uniform(0, 2 * np.pi)
    turned = np.stack([np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x])
    offsets = np.stack([_noise(rng, 4), _noise(rng, 4)]) * pixels
    return map_coordinates(plane, turned + offsets + SIDE / 2, order=1, mode="reflect")


def _fur(rng: np.random.Generator) -> Array:
    return _warp(_noise(rng, rng.uniform(60, 120), stretch=rng.uniform(6, 16), octaves=2), rng, pixels=25)


def _bark(rng: np.random.Generator) -> Array:
    return _warp(1 - 2 * np.abs(_noise(rng, rng.uniform(10, 24), stretch=4, octaves=4)), rng, pixels=15)


def _weave(rng: np.random.Generator) -> Array:
    y, x = np.mgrid[0:SIDE, 0:SIDE] * (np.pi / rng.uniform(3, 12))
    over = np.sin(y) * np.abs(np.sin(x / 2)) * (np.sin(y / 2) * np.sin(x / 2) > 0)
    return _warp((over + np.sin(x) * np.abs(np.sin(y / 2)) * 0.7).astype(np.float32), rng, pixels=4)


def _pebbles(rng: np.random.Generator) -> Array:
    centres = rng.uniform(-10, SIDE + 10, (int(rng.uniform(60, 900)), 2))
    grid = np.stack(np.mgrid[0:SIDE, 0:SIDE], -1).reshape(-1, 2)
    distance, index = cKDTree(centres).query(grid, k=2)
    edge = np.clip((distance[:, 1] - distance[:, 0]) / rng.uniform(3, 9), 0, 1)
    shade = rng.uniform(-0.6, 1, len(centres))[index[:, 0]]
    return (edge * (0.5 * shade + 0.5) * 2 - 1).reshape(SIDE, SIDE).astype(np.float32)


def _leaves(rng: np.random.Generator) -> Array:
    canvas = Image.new("F", (SIDE, SIDE), -1.0)
    draw = ImageDraw.Draw(canvas)
    length = rng.uniform(6, 26)
    for x, y, angle, tone in rng.uniform((-10, -10, 0, -0.6), (SIDE + 10, SIDE + 10, 6.3, 1), (700, 4)):
        along = np.array([np.cos(angle), np.sin(angle)]) * length
        across = np.array([-along[1], along[0]]) * 0.3
        tip, back = np.array([x, y]) + along, np.array([x, y]) - along
        middle = np.array([x, y])
        draw.polygon([tuple(tip), tuple(middle + across), tuple(back), tuple(middle - across)], fill=float(tone))
        draw.line([tuple(tip), tuple(back)], fill=float(tone) - 0.3)
    return gaussian_filter(np.asarray(canvas), 0.7)


def _lines(rng: np.random.Generator) -> Array:
    x = np.mgrid[0:SIDE, 0:SIDE][1] * (2 * np.pi / rng.uniform(5, 50))
    return _warp(np.clip(np.sin(x) * rng.uniform(1, 4), -1, 1).astype(np.float32), rng, pixels=rng.uniform(0, 20))


def _gradient(rng: np.random.Generator) -> Array:
    return _noise(rng, 2) + 0.06 * rng.random() * _noise(rng, 120)


def _cloud(rng: np.random.Generator) -> Array:
    return _noise(rng, rng.uniform(3, 20), octaves=5)


TEXTURES = (_fur, _fur, _bark, _weave, _pebbles, _leaves, _lines, _gradient, _gradient, _cloud)


def _texture(rng: np.random.Generator) -> Array:
    """One texture in three random colours, [SIDE, SIDE, 3] in 0..1."""
    tone = TEXTURES[rng.integers(len(TEXTURES))](rng)
    tone = np.clip(0.5 + 0.5 * tone, 0, 1)[..., None]
    middle = rng.random(3)
    dark, bright = middle * rng.uniform(0.1, 0.7), middle + (1 - middle) * rng.uniform(0.1, 0.8)
    tint = 0.15 * _noise(rng, 3)[..., None] * rng.standard_normal(3)
    return np.clip(dark + (bright - dark) * tone + tint * rng.random(), 0, 1)


def _shape(rng: np.random.Generator) -> Array:
    """A filled region [SIDE, SIDE] bool: an ellipse, a smooth blob, a polygon or a half plane."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - rng.uniform(0, SIDE, (2, 1, 1))
    angle, radius, flat = rng.uniform(0, 6.3), rng.uniform(20, 110), rng.uniform(0.3, 1)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    kind = rng.integers(4)
    if kind == 0:
        return along**2 + (across / flat) ** 2 < radius**2
    if kind == 1:
        return along**2 + across**2 < (radius * (1 + 0.5 * _noise(rng, 4))) ** 2
    if kind == 2:
        return (np.abs(along) < radius) & (np.abs(across) < radius * flat)
    return along > 0


def _round_light(mask: Array, rng: np.random.Generator) -> Array:
    """Shading [SIDE, SIDE, 1] that makes a flat shape look round."""
    height = gaussian_filter(mask, rng.uniform(6, 25))
    slope = np.gradient(height, axis=int(rng.integers(2))) * rng.uniform(-30, 30)
    return np.clip(1 + slope, 0.4, 1.6)[..., None]


def _marks(picture: Array, rng: np.random.Generator) -> Array:
    """Thin strokes in rows, like writing seen from afar, or a few long lines."""
    canvas = Image.new("L", (SIDE * 2, SIDE * 2), 0)
    draw = ImageDraw.Draw(canvas)
    size = int(rng.integers(8, 34))
    top, left = rng.integers(0, SIDE, 2)
    for row in range(rng.integers(1, 7)):
        for column in range(rng.integers(3, 16)):
            corner = np.array([left + column * size * 0.8, top + row * size * 1.5])
            for _ in range(3):
                ends = corner + rng.uniform(0, size, (2, 2)) * (0.7, 1)
                draw.line([tuple(end) for end in ends], fill=255, width=max(1, size // 8))
    for _ in range(rng.integers(0, 4)):
        ends = rng.uniform(0, SIDE * 2, (2, 2))
        draw.line([tuple(end) for end in ends], fill=255, width=int(rng.integers(2, 7)))
    mask = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX))[..., None] / 255
    return mask * rng.random(3) + (1 - mask) * picture
