import dataclasses

import pytest
import torch

from dinotile.flux_patch.adapter_config import AdapterConfig, spread_sites
from dinotile.flux_patch.checkpoint import config_from, new_adapter
from dinotile.flux_patch.families import FLUX1
from dinotile.flux_patch.geometry import FluxGeometry, RopeOptions, dino_ids, geometry_of, image_ids, rotary, rotate
from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.rows import DinoRow, make_call
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.hosts.comfy.inject import merge_masks, widen_mask

from .conftest import GEOMETRY, make_features, trained_like


def call_for(adapter, rows, *, size=(4, 4), sigma=0.5):
    return make_call(
        adapter,
        rows,
        sigmas=torch.full((len(rows),), sigma),
        token_size=size,
        percent_to_sigma=lambda p: 1 - p,
        dtype=torch.float32,
    )


def test_a_new_adapter_is_seeded_and_knows_that_it_is_idle(config):
    one, same, other = new_adapter(config, seed=1), new_adapter(config, seed=1), new_adapter(config, seed=2)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.idle == set(config.mechanisms) and not one.trained
    assert call_for(one, [DinoRow(one.module.project(make_features(seed=0)), settings=Strength(1.0))]) is None


def test_features_of_another_encoder_or_layer_are_refused_with_both_sides_named(adapter, features):
    for change in ({"spec": "dinov2-base"}, {"layers": "4"}):
        with pytest.raises(ValueError, match="adapter was made for dinov2-demo layers 3"):
            adapter.module.project(dataclasses.replace(features, **change))


def test_sites_are_spread_over_the_blocks():
    geometry = dataclasses.replace(GEOMETRY, double_blocks=19, single_blocks=38)
    sites = spread_sites(geometry)
    assert sites[:3] == ("double.0", "double.2", "double.4") and sites[10:13] == ("single.0", "single.4", "single.8")
    assert spread_sites(geometry, single_every=0) == sites[:10]


def test_projection_uses_the_whole_picture_and_keeps_its_layout(adapter):
    features = make_features(seed=1)
    moved = features.with_patches(features.patches.roll(1, dims=2), features.cls)
    one, other = adapter.module.project(features), adapter.module.project(moved)
    assert one.patches.shape == (1, 6, 8, 32) and one.cls.shape == (1, 32)
    assert torch.allclose(one.patches[:, 1:-1, 1:-2], other.patches[:, 1:-1, 2:-1], atol=1e-5)
    shifted = features.with_patches(features.patches * 3.0, features.cls)
    with torch.no_grad():
        adapter.module.patches.mean_share.fill_(1.0)
    same = adapter.module.project(features).patches - adapter.module.project(shifted).patches
    assert same.abs().max() < 1e-4  # spatial normalisation: no contrast, no offset


def test_a_row_gets_the_tokens_of_its_own_region(adapter):
    """Tokens that encode their own place in the picture arrive at the tile that covers it."""
    ramp = torch.stack(torch.meshgrid(torch.arange(8) + 0.5, torch.arange(16) + 0.5, indexing="ij"), dim=-1)
    ramp = torch.cat([ramp, torch.zeros(8, 16, 30)], dim=-1)[None]  # [1, 8, 16, 32]
    tokens = DinoTokens(ramp, torch.zeros(1, 32))
    boxes = [(0.25, 0.25, 0.5, 0.25), (0.5, 0.5, 0.5, 0.5)]
    call = call_for(adapter, [DinoRow(tokens, 0, box, Strength(1.0)) for box in boxes])
    for row, (top, left, height, width) in enumerate(boxes):
        grid = call.regions.sequence[row, 1:].unflatten(0, (4, 4))
        centres = (torch.arange(4) + 0.5) / 4
        rows, columns = (top + centres * height) * 8, (left + centres * width) * 16
        inside_rows, inside_columns = rows.clamp(0.5, 7.5), columns.clamp(0.5, 15.5)
        assert torch.allclose(grid[..., 0], inside_rows[:, None].expand(4, 4), atol=1e-4)
        assert torch.allclose(grid[..., 1], inside_columns.expand(4, 4), atol=1e-4)


def test_only_context_tokens_have_text_weights(adapter, config, features):
    part = trained_like(new_adapter(dataclasses.replace(config, mechanisms=("cross_attention",))))
    assert call_for(part, [DinoRow(part.module.project(features), settings=Strength(0.5))]).text_weights is None
    both = call_for(adapter, [DinoRow(adapter.module.project(features), settings=Strength(s)) for s in (0.5, 1.0)])
    assert both.text_weights.tolist() == [0.5, 1.0]
    assert call_for(adapter, [DinoRow(adapter.module.project(features), settings=Strength(1.0))]).text_weights is None


def test_adapters_of_other_grids_share_a_runs_memo(adapter, config, features):
    small = trained_like(new_adapter(dataclasses.replace(config, grid=2)))
    memo, tokens = RunMemo(), DinoTokens(torch.rand(1, 6, 8, 32), torch.rand(1, 32))
    for chosen, count in ((adapter, 17), (small, 5), (adapter, 17)):
        row = DinoRow(tokens, settings=Strength(1.0))
        call = make_call(
            chosen,
            [row],
            sigmas=torch.tensor([0.5]),
            token_size=(4, 4),
            percent_to_sigma=lambda p: 1 - p,
            dtype=torch.float32,
            memo=memo,
        )
        assert call.regions.sequence.shape[1] == call.key_rotation.shape[0] == count


def test_rotary_positions_are_fluxs_own():
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    ids = image_ids(5, 7, family=FLUX1)
    cos, sin = FluxPosEmbed(theta=10_000, axes_dim=[16, 56, 56])(ids)
    ours = rotary(ids, FLUX1)
    assert torch.allclose(ours[..., 0, 0].repeat_interleave(2, dim=1), cos.float(), atol=1e-6)
    assert torch.allclose(ours[..., 1, 0].repeat_interleave(2, dim=1), sin.float(), atol=1e-6)


def test_rotation_depends_on_distance_only():
    q, k = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(0))

    def score(a, b):
        ids = torch.tensor([[0.0, a, 3.0], [0.0, b, 3.0]])
        turned = rotary(ids, FLUX1)
        return (rotate(q, turned[:1]) * rotate(k, turned[1:])).sum()

    assert torch.allclose(score(2.0, 5.5), score(12.0, 15.5), atol=1e-4)


def test_dino_positions_lie_on_the_image_positions():
    same = dino_ids(4, height=4, width=4, family=FLUX1)
    assert torch.equal(same[0], torch.zeros(3))
    assert torch.allclose(same[1:], image_ids(4, 4, family=FLUX1))
    half = dino_ids(2, height=4, width=8, family=FLUX1, options=RopeOptions(shift_y=10, scale_x=2))[1:]
    assert half[:, 1].tolist() == [10.5, 10.5, 12.5, 12.5] and half[:, 2].tolist() == [3.0, 11.0, 3.0, 11.0]


def test_other_models_are_refused_by_name():
    with pytest.raises(ValueError, match="the model is a Linear, needed is FLUX.1"):
        geometry_of(torch.nn.Linear(2, 2))


def test_geometry_is_read_from_diffusers(transformer):
    assert geometry_of(transformer) == GEOMETRY
    assert FluxGeometry(**dataclasses.asdict(GEOMETRY)) == GEOMETRY
    assert config_from(dataclasses.asdict(new_adapter(config_of()).config), name="file") == config_of()


def config_of():
    return AdapterConfig("dinov2-demo", 24, "3", GEOMETRY, width=8, mechanisms=("vector",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 2.5}, "strength 2.5 must be between 0 and 2"),
        ({"strength": -0.1}, "strength -0.1 must be"),
        ({"start_percent": 0.8, "end_percent": 0.2}, "must satisfy 0 <= start <= end <= 1"),
        ({"profile": "sideways"}, "profile 'sideways' must be one of flat, early, late"),
    ],
)
def test_impossible_strengths_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Strength(**arguments)


def test_a_region_in_the_padding_beyond_the_picture_has_the_mask_of_its_border():
    mask = torch.arange(12.0).reshape(3, 4) / 12
    beyond = Strength(mask=mask).mask_on((1.01, 1.02, 0.1, 0.1), height=2, width=2)
    assert torch.equal(beyond, mask[-1, -1].expand(2, 2))


def test_by_default_dino_acts_as_trained_over_the_whole_schedule():
    assert [Strength().at(sigma, lambda percent: 1 - percent) for sigma in (1.0, 0.5, 0.0)] == [1.0] * 3


def test_profiles_weigh_the_depth(adapter, features):
    tokens = adapter.module.project(features)
    torch.nn.init.zeros_(adapter.module.gate.out.weight)
    torch.nn.init.zeros_(adapter.module.gate.out.bias)
    weights = {
        p: call_for(adapter, [DinoRow(tokens, settings=Strength(1.0, profile=p))]).site_weights[0].tolist()
        for p in ("flat", "early", "late")
    }
    assert weights["flat"] == [1.0] * 4
    assert weights["early"] == sorted(weights["early"], reverse=True) and weights["early"][0] == 1.0
    assert weights["late"] == pytest.approx([1 - w for w in weights["early"]])


def test_a_mask_is_cropped_to_the_row(adapter, features):
    mask = torch.zeros(8, 8)
    mask[:4, 4:] = 1.0
    settings = Strength(1.0, mask=mask)
    tokens = adapter.module.project(features)
    rows = [
        DinoRow(tokens, 0, box, settings) for box in ((0, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (0.25, 0.5, 0.5, 0.5))
    ]
    weights = call_for(adapter, rows).query_weights.unflatten(1, (4, 4))
    assert weights[0].min() == 1 and weights[1].max() == 0
    assert weights[2][:2].min() == 1 and weights[2][2:].max() == 0


def test_attention_masks_make_room_for_context_tokens():
    mask = torch.tensor([[False, True], [True, True]])
    wide = widen_mask(mask[None], at=1, by=2)
    assert wide.shape == (1, 4, 4)
    assert wide[0, 0].tolist() == [False, True, True, True] and bool(wide[0, 1:3].all())
    padded = torch.tensor([[0.0, -torch.inf], [0.5, -torch.inf]])
    for kind, closed in ((padded, -torch.inf), (padded == 0, False)):  # padding is closed to the new tokens too
        wide = widen_mask(kind, at=2, by=2)
        assert wide[2:, 1].tolist() == [closed] * 2 and (wide[2:, [0, 2, 3]] == (0 if closed else True)).all()
    weighed = widen_mask(torch.tensor([[0.0, -0.7], [0.5, -0.7]]), at=2, by=1)
    assert weighed[2].tolist() == [0, pytest.approx(-0.7), 0]  # and so are the weights of tokens
    bias = torch.tensor([0.0, -1.0])[None, None, None]
    merged = merge_masks(mask, bias)
    assert merged.shape == (1, 1, 2, 2)
    assert merged[0, 0].tolist() == [[float("-inf"), -1.0], [0.0, -1.0]]
    assert merge_masks(None, bias) is bias


def test_a_site_sees_distances_between_image_and_dino_tokens(adapter):
    """Moving both leaves its output as it is, moving the DINO tokens alone does not: queries and keys are rotated."""
    generator = torch.Generator().manual_seed(0)
    q, tokens = torch.randn(1, 2, 16, 128, generator=generator), torch.randn(1, 17, 32, generator=generator)
    image, dino = (torch.rand(count, 3, generator=generator) * 8 for count in (16, 17))

    def out(image_shift, dino_shift):
        turned = {"q_rotation": rotary(image + image_shift, FLUX1), "key_rotation": rotary(dino + dino_shift, FLUX1)}
        return adapter.module.site("double.0")(q, tokens, **turned)

    assert torch.allclose(out(0, 0), out(5, 5), atol=1e-4)
    assert (out(0, 0) - out(0, 5)).abs().max() > 1e-2
    assert (out(0, 0) - out(5, 0)).abs().max() > 1e-2


def test_ten_times_the_tokens_move_what_a_site_gives_and_not_what_it_attends_to(adapter):
    """Keys are normalised, values never."""
    generator = torch.Generator().manual_seed(0)
    q, tokens = torch.randn(1, 2, 16, 128, generator=generator), torch.randn(1, 17, 32, generator=generator)
    image, dino = (rotary(torch.rand(count, 3, generator=generator) * 8, FLUX1) for count in (16, 17))
    site = adapter.module.site("double.0")

    def out(tokens):
        return site(q, tokens, q_rotation=image, key_rotation=dino)

    small, large = out(tokens), out(10 * tokens)
    assert torch.allclose(large, 10 * small, rtol=1e-3, atol=1e-3) and (large - small).abs().max() > 1
    site.v.register_forward_hook(
        lambda *_: torch.eye(17, 128).repeat(1, 2)[None]
    )  # then it gives the weights themselves
    small, large = (out(some).unflatten(2, (2, 128))[..., :17] for some in (tokens, 10 * tokens))  # [1, N, H, M]
    assert torch.allclose(small.sum(3), torch.ones(1, 16, 2), atol=1e-5) and small.std(3).min() > 1e-2
    assert torch.allclose(large, small, atol=1e-4)


def test_the_learned_gate_weighs_each_site_by_the_noise_level(adapter, features):
    row = DinoRow(adapter.module.project(features), settings=Strength(0.5))
    early, late = (call_for(adapter, [row], sigma=sigma).site_weights[0] for sigma in (0.9, 0.2))
    assert torch.allclose(early, 0.5 * adapter.module.gate(torch.tensor([0.9]))[0])
    assert (early - late).abs().min() > 1e-3
