import pytest
import torch

from dinotile.files.pixels import resize
from dinotile.tiling.color_match import LEVELS, MATCHES, match_color, smooth
from dinotile.tiling.plan import plan_tiles

PLAN = plan_tiles(128, 160, tile=64, overlap=16, grid=16, cell=8)
SIZE = 120, 150  # of the picture: less than the canvas


def source(batch=1):
    small = torch.rand(batch, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    return resize(0.3 + 0.4 * small, height=SIZE[0], width=SIZE[1])


def detail(batch=1):
    """Checks of one px, which no wavelet level above the first sees."""
    rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])[None]
    return (0.05 * (-1.0) ** (rows + columns)).expand(batch, 3, -1, -1)


def shifted(pixels):
    """Other light on each channel, and a gradient from left to right."""
    tint = torch.tensor([0.1, -0.05, 0.02])[:, None, None] + 0.1 * torch.linspace(-1, 1, pixels.shape[-1])
    return 0.8 * pixels + tint


@pytest.mark.parametrize("way", MATCHES)
def test_a_result_in_its_sources_colours_stays_as_it_is(way):
    found = match_color(source() + 0.0, source(), way=way, plan=PLAN)
    assert (found - source()).abs().max() < 1e-6


def test_off_gives_the_very_tensor():
    result = shifted(source())
    assert match_color(result, source(), way="off", plan=PLAN) is result


def test_the_wavelet_takes_coarse_colour_from_the_source_and_leaves_detail():
    found = match_color(shifted(source()) + detail(), source(), way="wavelet", plan=PLAN)
    assert (shifted(source()) - source()).abs().mean() > 0.05
    assert (found - source() - detail()).abs().mean() < 0.25 * (shifted(source()) - source()).abs().mean()
    without = match_color(shifted(source()), source(), way="wavelet", plan=PLAN)
    assert (found - without - detail())[..., 1:-1, 1:-1].abs().max() < 1e-3


def test_the_coarse_part_is_the_mean_of_what_lies_within_the_last_level():
    assert torch.allclose(smooth(source() * 0 + 0.3), source() * 0 + 0.3, atol=1e-6)
    dot = torch.zeros(1, 1, 161, 161)
    dot[..., 80, 80] = 1
    spread = smooth(dot)
    assert spread.sum() == pytest.approx(1, abs=1e-5) and spread.max() < 2e-3
    rows = spread[0, 0].sum(1).nonzero()
    assert (int(rows.min()), int(rows.max())) == (80 - 2**LEVELS + 1, 80 + 2**LEVELS - 1)


def test_adain_gives_each_channel_of_each_picture_the_sources_mean_and_deviation():
    pictures = torch.cat([source(), source().flip(-1) * 0.9])
    result = shifted(pictures)
    assert (result.mean((2, 3)) - pictures.mean((2, 3))).abs().max() > 0.03
    found = match_color(result, pictures, way="adain", plan=PLAN)
    for figure in (torch.mean, torch.std):
        assert torch.allclose(figure(found, (2, 3)), figure(pictures, (2, 3)), atol=1e-4)


def test_adain_of_tiles_follows_what_changes_over_the_picture_without_a_step_at_their_borders():
    result = shifted(source())
    whole, tiles = (match_color(result, source(), way=way, plan=PLAN) for way in ("adain", "adain_tiles"))
    wrong, less = ((found - source()).abs().mean() for found in (whole, tiles))
    assert less < 0.5 * wrong
    steps = (tiles - source()).diff(dim=-1).abs()
    assert steps.max() < 3 * (result - source()).diff(dim=-1).abs().max() + 0.01


def test_a_flat_channel_is_not_stretched():
    flat = torch.full((1, 3, *SIZE), 0.4)
    for way in ("adain", "adain_tiles"):
        found = match_color(flat, source(), way=way, plan=PLAN)
        assert found.isfinite().all()
        assert float(found.mean() - source().mean()) == pytest.approx(0, abs=0.02)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="color match 'lab' must be one of off, wavelet, adain, adain_tiles"):
        match_color(source(), source(), way="lab", plan=PLAN)
