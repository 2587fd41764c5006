import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from dinotile.dino.detail import CELL, DetailRule, detail_mask, writing
from dinotile.dino.feature_map import FeatureMap

GRID = 16  # patches per side
SIDE = GRID * CELL
KINDS = ("flat", "slope", "grain", "text")  # the quarters of the picture, in reading order


def quarters():
    """[1, 3, SIDE, SIDE]: flat grey, an even slope of light, grain, and small writing."""
    half = SIDE // 2
    generator = torch.Generator().manual_seed(0)
    grain = 0.5 + 0.12 * torch.randn(half, half, generator=generator)
    page = Image.new("L", (half, half), 235)
    for line in range(0, half, 14):
        text = "the quick brown fox jumps over it"
        ImageDraw.Draw(page).text((2, line), text, fill=20, font=ImageFont.load_default(12))
    page = torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).view(half, half) / 255
    flat, slope = torch.full((half, half), 0.5), torch.linspace(0.1, 0.9, half).expand(half, half)
    top, bottom = torch.cat([flat, slope], dim=1), torch.cat([grain, page], dim=1)
    return torch.cat([top, bottom]).clamp(0, 1).expand(1, 3, SIDE, SIDE)


def features(labels, *, noise=0.2, seed=0, size=(SIDE, SIDE)):
    """A map in which each label [h, w] has a direction of its own, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(int(labels.max()) + 1, 32, generator=generator)
    patches = kinds[labels] + noise * torch.randn(*labels.shape, 32, generator=generator)
    return FeatureMap(patches[None], patches.mean((0, 1))[None], "tiny-v2", "3", size)


def by_quarter():
    rows = torch.arange(GRID) * 2 // GRID
    return 2 * rows[:, None] + rows


def inner(mask, kind):
    """The mean over a quarter, away from its borders."""
    number, half = KINDS.index(kind), GRID // 2
    rows, columns = mask.split(half)[number // 2], slice(2, half - 2)
    return float(rows.split(half, dim=1)[number % 2][columns, columns].mean())


def test_texture_is_high_and_flat_ground_and_writing_are_low():
    mask = detail_mask(features(by_quarter()), quarters())[0]
    assert mask.shape == (GRID, GRID)
    found = {kind: inner(mask, kind) for kind in KINDS}
    assert found["grain"] == 1.0  # what is a little lower misses the first step of a sampling
    assert max(found["flat"], found["slope"], found["text"]) < 0.35, found


def test_each_part_of_the_rule_acts_by_its_own_knob():
    def found(kind, **knobs):
        return inner(detail_mask(features(by_quarter()), quarters(), rule=DetailRule(**knobs))[0], kind)

    assert found("text", text=0.0) > 0.9
    assert found("flat", low=0.5) == pytest.approx(0.5, abs=0.05) and found("grain", high=0.6) < 0.61
    assert found("grain", contrast=0.5) < 0.5 < found("grain")


def test_only_writing_looks_like_writing():
    found = writing(quarters().mean(1, keepdim=True))[0]
    assert inner(found, "text") > 0.8
    assert max(inner(found, kind) for kind in ("flat", "slope", "grain")) < 0.01
    edge = torch.zeros(1, 1, SIDE, SIDE)
    edge[..., SIDE // 2 + 5 :] = 1
    assert writing(edge).max() < 0.01  # two tones, far apart, and one border
    rough = 0.5 + 0.25 * torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert writing(rough.clamp(0, 1)).max() < 0.01  # far apart, with much border, and no paper


def test_a_small_object_is_spared_and_a_large_one_is_texture():
    grain = quarters()[..., SIDE // 2 :, : SIDE // 2].repeat(1, 1, 2, 2)
    for side, spared in ((2, True), (10, False)):
        labels = torch.zeros(GRID, GRID, dtype=torch.long)
        labels[3 : 3 + side, 3 : 3 + side] = 1
        mask = detail_mask(features(labels), grain, rule=DetailRule(smoothing=0))[0]
        assert (float(mask[3 : 3 + side, 3 : 3 + side].mean()) < 0.7) == spared
        assert float(mask[14:, 14:].mean()) > 0.9
        kept = detail_mask(features(labels), grain, rule=DetailRule(smoothing=0, objects=0))[0]
        assert float(kept[3 : 3 + side, 3 : 3 + side].mean()) > 0.9


def test_smoothing_evens_a_region_and_stops_at_its_border():
    pixels, found = quarters(), features(by_quarter(), noise=0.05)
    pixels = pixels.clone()
    pixels[..., 11 * CELL : 12 * CELL, 3 * CELL : 4 * CELL] = 0.5  # a hole in the grain
    rough, even = (detail_mask(found, pixels, rule=DetailRule(smoothing=radius))[0] for radius in (0, 2))
    assert rough[11, 3] < 0.35 and even[11, 3] > 0.8
    assert even[GRID // 2 - 1, 3] < 0.4  # flat, beside the grain


def test_without_the_picture_what_is_like_its_neighbours_is_flat():
    generator = torch.Generator().manual_seed(1)
    labels = torch.zeros(GRID, GRID, dtype=torch.long)
    labels[:, GRID // 2 :] = torch.randint(1, 6, (GRID, GRID // 2), generator=generator)
    mask = detail_mask(features(labels, noise=0.02), rule=DetailRule(objects=0))[0]
    assert mask[:, : GRID // 2 - 2].mean() < 0.3 and mask[:, GRID // 2 + 2 :].mean() > 0.8
    same = FeatureMap(torch.ones(1, 4, 4, 8), torch.ones(1, 8), "tiny-v2", "3", (64, 64))
    assert detail_mask(same).eq(0.2).all()  # of nothing but rounding no texture is made


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="image holds 1 of 256 x 128 px, the features 1 of 256 x 256 px"):
        detail_mask(features(by_quarter()), quarters()[..., :128, :])
    with pytest.raises(ValueError, match="image holds 2 of"):
        detail_mask(features(by_quarter()), quarters().repeat(2, 1, 1, 1))
    for knob, value in (("low", -0.1), ("contrast", 0), ("smoothing", 17), ("text", float("nan"))):
        with pytest.raises(ValueError, match=f"{knob} {value} must be from"):
            DetailRule(**{knob: value})
    with pytest.raises(ValueError, match="low 0.9 is above high 0.5"):
        DetailRule(low=0.9, high=0.5)
