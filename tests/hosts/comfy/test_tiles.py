import uuid
from types import SimpleNamespace

import pytest
import torch

from dinotile.hosts.comfy.crop import crop_attention_mask, crop_reference
from dinotile.hosts.comfy.tile_rows import tile_rows
from dinotile.hosts.comfy.tile_run import TileRun
from dinotile.tiling.plan import Box, plan_tiles

CPU = torch.device("cpu")
PLAN = plan_tiles(24, 40, tile=16, overlap=4, grid=2)  # latent cells


def run():
    return TileRun(PLAN, rows=tile_rows(PLAN), crop_control=lambda control, box, plan: (control, box))


def cond(**entries):
    return {"uuid": uuid.uuid4(), "model_conds": {}, **entries}


def weights(tiles):
    """What the host sums up: every mask inside its area."""
    total = torch.zeros(PLAN.height, PLAN.width)
    for tile in tiles:
        height, width, top, left = tile["area"]
        inside = tile["mask"].narrow(1, top, height).narrow(2, left, width)
        total[top : top + height, left : left + width] += inside[0]
    return total


def test_a_conditioning_becomes_one_per_tile_whose_weights_sum_to_one():
    tiles = run().split([cond(cross_attn="text")], slot=0, device=CPU)
    assert [t["area"] for t in tiles] == [(b.height, b.width, b.top, b.left) for b in PLAN.boxes]
    assert all(t["mask"].shape == (1, PLAN.height, PLAN.width) and t["cross_attn"] == "text" for t in tiles)
    assert (weights(tiles) - 1).abs().max() < 1e-6
    assert len({t["uuid"] for t in tiles}) == PLAN.count


def test_masks_are_views_of_a_few_sheets_and_are_made_once():
    many = plan_tiles(4096, 4096, tile=128, overlap=16, grid=2)
    tiles = TileRun(many, rows=tile_rows(many), crop_control=lambda *a: a)
    first = tiles.split([cond()], slot=0, device=CPU)
    storages = {t["mask"].untyped_storage().data_ptr(): t["mask"].untyped_storage().nbytes() for t in first}
    assert sum(storages.values()) < 0.1 * len(first) * 4096 * 4096 * 4
    one = cond()
    again = run()
    assert again.split([one], slot=0, device=CPU)[0]["mask"] is again.split([one], slot=0, device=CPU)[0]["mask"]


def test_an_area_weighs_its_tiles_and_drops_the_others():
    area = (12, 16, 0, 0)
    tiles = run().split([cond(area=area)], slot=0, device=CPU)
    assert 0 < len(tiles) < PLAN.count
    total = weights(tiles)
    assert bool((total[:9, :12] > 0.999).all()) and total[12:].max() == 0 and total[:, 16:].max() == 0
    assert total[11, 0] < 0.5  # softened towards the inside of the canvas only
    assert total[0, 0] == pytest.approx(1)


def test_a_tile_is_run_on_what_an_area_has_of_it_and_whole_where_that_is_a_strip():
    area = (24, 21, 0, 3)  # columns 3 to 23 of tiles at 0, 12 and 24
    tiles = run().split([cond(area=area), cond(area=(24, 20, 0, 0))], slot=0, device=CPU)
    columns = [(t["area"][3], t["area"][1]) for t in tiles]
    assert columns == [(3, 13), (12, 12)] * 2 + [(0, 16), (12, 8)] * 2
    boxes = [t["model_conds"]["dinotile_tiles"].row["box"] for t in tiles]
    assert boxes[:2] == [(3, 0, 16, 14), (12, 0, 24, 14)]
    thin = run().split([cond(area=(24, 19, 0, 0))], slot=0, device=CPU)
    assert [(t["area"][3], t["area"][1]) for t in thin] == [(0, 16), (12, 16)] * 2
    assert weights(thin)[:, 19:].max() == 0 and torch.allclose(weights(thin)[:, :12], torch.ones(24, 12))


def test_what_shows_a_hint_is_run_in_whole_tokens_and_weighs_in_the_area_alone():
    tiles = run().split([cond(area=(24, 21, 0, 3), control="hint")], slot=0, device=CPU, whole=True)
    assert [tile["control"][1] for tile in tiles[:2]] == [Box(0, 2, 14, 14), Box(0, 12, 14, 12)]
    total = weights(tiles)
    assert total[:, :3].max() == 0 and total[0, 3] > 0


def test_a_mask_is_multiplied_with_the_window():
    mask = torch.zeros(1, PLAN.height, PLAN.width)
    mask[:, 5:9, 30:] = 0.5
    tiles = run().split([cond(mask=mask)], slot=0, device=CPU)
    assert torch.allclose(weights(tiles), mask[0], atol=1e-6)


def test_controls_and_references_are_cropped_to_each_tile():
    rows = torch.arange(PLAN.height).float()[:, None] * 100 + torch.arange(PLAN.width).float()
    reference = SimpleNamespace(cond=[rows[None, None]])
    tiles = run().split([cond(control="hint", model_conds={"ref_latents": reference})], slot=0, device=CPU)
    for tile, box in zip(tiles, PLAN.boxes, strict=True):
        assert tile["control"] == ("hint", box)
        cropped = tile["model_conds"]["ref_latents"].cond[0]
        assert cropped.shape[-2:] == (box.height, box.width) and cropped[0, 0, 0, 0] == box.top * 100 + box.left
    assert reference.cond[0].shape[-2:] == (PLAN.height, PLAN.width)


def test_a_smaller_reference_of_the_same_picture_is_cropped_in_proportion_and_another_picture_is_not():
    half = torch.zeros(1, 16, 12, 20)
    sizes = {crop_reference(half, (b.height, b.width, b.top, b.left), PLAN).shape[-2:] for b in PLAN.boxes}
    assert sizes == {(8, 8)}
    portrait = torch.zeros(1, 16, 20, 12)
    assert crop_reference(portrait, (16, 16, 0, 0), PLAN) is portrait


@pytest.mark.parametrize("canvas,reference", [((26, 14), (12, 6)), ((34, 66), (16, 32)), ((126, 192), (62, 96))])
def test_a_reference_of_a_picture_that_ends_before_its_canvas_is_cropped(canvas, reference):
    """Of 100 x 50 and 129 x 257 px, twice as large, and of 500 x 768."""
    plan = plan_tiles(*canvas, tile=10, overlap=2, grid=2)
    box = plan.boxes[-1]
    latent = torch.zeros(1, 16, *reference)
    shown = crop_reference(latent, (box.height, box.width, box.top, box.left), plan)
    assert shown.shape[-2] < reference[0] and shown.shape[-1] < reference[1]


def test_attention_masks_keep_text_and_the_tiles_own_tokens():
    rows, columns, text = PLAN.height // 2, PLAN.width // 2, 3
    length = text + rows * columns
    mask = torch.arange(length).float().expand(1, length, length)
    cropped = crop_attention_mask(mask, (16, 16, 8, 24), PLAN)
    assert cropped.shape == (1, text + 64, text + 64)
    assert cropped[0, 0, :4].tolist() == [0, 1, 2, text + 4 * columns + 12]


@pytest.mark.parametrize("name", ["default", "gligen"])
def test_what_cannot_be_tiled_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be sampled in tiles"):
        run().split([cond(**{name: True})], slot=0, device=CPU)
