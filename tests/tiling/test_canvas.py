import pytest
import torch

from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.canvas import pad_to_grid, scaled_size
from dinotile.tiling.plan import canvas_size
from dinotile.tiling.preview import describe_plan, draw_plan


def test_sizes_are_exact():
    assert scaled_size(333, 517, scale=2) == (666, 1034)
    assert scaled_size(1, 1, scale=0.1) == (1, 1)
    pixels = torch.rand(1, 3, 66, 103)
    padded = pad_to_grid(pixels, grid=16)
    assert tuple(padded.shape[2:]) == canvas_size(66, 103, grid=16) == (80, 112)
    assert torch.equal(padded[..., :66, :103], pixels) and torch.equal(padded[..., 79, :103], pixels[..., 65, :])
    assert resize(pixels, height=66, width=103).equal(pixels)
    assert pad_to_grid(padded, grid=16) is padded  # a canvas of that size is not copied
    with pytest.raises(ValueError, match="scale 0 must be from 0.1 to 16"):
        scaled_size(10, 10, scale=0)


def test_the_preview_can_be_ended_at_any_tile():
    def stop(stage, done, total, note=""):
        if done == 3:
            raise KeyboardInterrupt(f"{done} of {total}")

    with pytest.raises(KeyboardInterrupt, match="3 of 16"):
        draw_plan(torch.zeros(64, 64, 3), plan_tiles(256, 256, tile=64, overlap=0), progress=stop)


def test_the_preview_draws_every_tile_and_tints_only_overlaps():
    plan = plan_tiles(256, 448, tile=256, overlap=64)
    drawn = draw_plan(torch.full((128, 224, 3), 0.5), plan)
    assert drawn.shape == (128, 224, 3)
    red = (drawn - torch.tensor([1.0, 64 / 255, 64 / 255])).abs().amax(-1) < 0.01
    assert bool(red[0, :90].all()) and bool(red[1:-1, 0].any())
    assert drawn[64, 40].tolist() == pytest.approx([0.5] * 3, abs=0.01) and drawn[64, 112, 2] < 0.4
    assert describe_plan(plan) == (
        "448 x 256 px: 2 x 1 = 2 tiles of 256 x 256 px, overlap at least 64 px, sampled/output pixels 1.14"
    )
