import pytest
import torch
import torch.nn.functional as F

from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.canvas import cut
from dinotile.tiling.pieces import merge, split
from dinotile.tiling.plan import FITS
from dinotile.tiling.windows import tile_windows, window


def pixels(height, width, *, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("size", "tile", "overlap"), [((256, 448), 128, 32), ((200, 328), 96, 16), ((64, 64), 64, 16)])
def test_tiles_that_nobody_changed_are_the_picture(size, tile, overlap, fit):
    picture, plan = pixels(*size), plan_tiles(*size, tile=tile, overlap=overlap, fit=fit)
    tiles, boxes = split(picture, plan)
    assert len(tiles) == plan.count and {tuple(t.shape[-2:]) for t in tiles} == {(plan.tile_height, plan.tile_width)}
    assert all(torch.equal(cut(picture, box), tile) for box, tile in zip(boxes, tiles, strict=True))
    assert torch.equal(merge(tiles, plan), picture)


def test_px_beyond_the_plan_stay_where_the_picture_is_given():
    picture, plan = pixels(205, 335), plan_tiles(200, 328, tile=96, overlap=16)
    tiles, boxes = split(picture, plan)
    assert (boxes[0].top, boxes[0].left) == (2, 3)  # 5 and 7 px are left out, half on either side
    assert torch.equal(merge(tiles, plan, around=picture), picture)
    assert torch.equal(merge(tiles, plan), picture[..., 2:202, 3:331])


def test_enlarged_tiles_give_an_enlarged_picture():
    picture, plan = pixels(205, 335), plan_tiles(200, 328, tile=96, overlap=16)
    tiles = [tile.repeat_interleave(3, 2).repeat_interleave(3, 3) for tile in split(picture, plan)[0]]
    large = picture.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert torch.equal(merge(tiles, plan, around=large), large)


def test_a_changed_tile_acts_in_its_box_only_and_fades_at_its_borders():
    picture, plan = pixels(256, 448), plan_tiles(256, 448, tile=128, overlap=32, fit="exact")
    tiles, boxes = split(picture, plan)
    tiles[7] = tiles[7] + 1
    change = merge(tiles, plan) - picture
    outside = change.clone()
    cut(outside, boxes[7]).zero_()
    assert not outside.any()
    inside = cut(change, boxes[7])
    assert inside[..., 64, 64].min() > 0.99 and inside[..., 0, :].max() < 0.01
    blended = sum(
        F.pad(tile * window(pair), _around(box))
        for tile, box, pair in zip(tiles, boxes, tile_windows(plan), strict=True)
    )
    assert (merge(tiles, plan) - blended).abs().max() <= 1e-6  # the sum by the windows of sampling


def _around(box):
    """What pads a box of a 256 x 448 canvas to all of it."""
    return box.left, 448 - box.right, box.top, 256 - box.bottom


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tiles: tiles[:-1], "there are 14 tiles, the plan has 15: give all"),
        (
            lambda tiles: [tiles[0][..., :60], *tiles[1:]],
            "the tiles are 60 x 128, 128 x 128 px, those of the plan 128 x 128",
        ),
        (lambda tiles: [tile[..., ::2, ::2] for tile in tiles], "the tiles are 64 x 64 px"),
        (lambda tiles: [tile[..., :64, :] for tile in tiles], "the tiles are 128 x 64 px"),
        (lambda tiles: [tiles[0][:1], *tiles[1:]], "as many pictures of each"),
    ],
)
def test_other_tiles_are_refused(change, told):
    plan = plan_tiles(256, 448, tile=128, overlap=32, fit="exact")
    tiles, _ = split(pixels(256, 448), plan)
    with pytest.raises(ValueError, match=told):
        merge(change(tiles), plan)


def test_another_picture_is_refused():
    plan = plan_tiles(256, 448, tile=128, overlap=32, fit="exact")
    for size in ((248, 448), (256, 456)):
        with pytest.raises(ValueError, match=f"the picture is {size[1]} x {size[0]} px, the plan is for 448 x 256"):
            split(pixels(*size), plan)
