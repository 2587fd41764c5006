import dataclasses

import pytest
import torch

from dinotile.flux_patch.checkpoint import new_adapter
from dinotile.flux_patch.families import FAMILIES
from dinotile.flux_patch.geometry import geometry_of
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.host import Text

from ...flux_patch.conftest import make_features, trained_like
from ...tiny import tiny_flux2, tiny_vae, tiny_vae2

HEIGHT, WIDTH = 6, 4  # tokens


@pytest.fixture(scope="module", params=["FLUX.1", "FLUX.2", "FLUX.2 dev"])
def transformer(request, transformer):
    if request.param == "FLUX.1":
        return transformer
    return tiny_flux2(heads=2, guidance=request.param == "FLUX.2 dev")


@pytest.fixture
def config(transformer, config):
    geometry = geometry_of(transformer)
    if geometry == config.geometry:
        return config
    mechanisms, sites = ("cross_attention", "context"), ("double.0", "single.0", "single.1")
    return dataclasses.replace(config, geometry=geometry, mechanisms=mechanisms, sites=sites)


def vae_of(transformer):
    return tiny_vae() if geometry_of(transformer).family == "flux1" else tiny_vae2()


def inputs(transformer, batch=2):
    generator, geometry = torch.Generator().manual_seed(1), geometry_of(transformer)
    family = FAMILIES[geometry.family]
    size = family.channels, family.patch * HEIGHT, family.patch * WIDTH
    return {
        "latents": torch.randn(batch, *size, generator=generator),
        "sigmas": torch.full((batch,), 0.4),
        "text": Text(
            torch.randn(batch, 5, geometry.context, generator=generator),
            torch.randn(batch, geometry.vector, generator=generator),
        ),
    }


def velocity(transformer, adapter, rows, **changes):
    host = DiffusersHost(transformer, vae_of(transformer), adapter=adapter)
    try:
        return host.velocity(**{**inputs(transformer), **changes}, rows=rows)
    finally:
        host.remove()


def plain(transformer):
    return DiffusersHost(transformer, vae_of(transformer)).velocity(**inputs(transformer))


def row(adapter, features, strength=1.0, box=(0.0, 0.0, 1.0, 1.0), **settings):
    return DinoRow(adapter.module.project(features), 0, box, Strength(strength, **settings))


def test_an_untrained_adapter_changes_no_bit(transformer, config, features):
    fresh = new_adapter(config)
    assert torch.equal(velocity(transformer, fresh, [row(fresh, features)] * 2), plain(transformer))


def test_strength_zero_changes_no_bit(transformer, adapter, features):
    assert torch.equal(velocity(transformer, adapter, [row(adapter, features, 0.0)] * 2), plain(transformer))


@pytest.mark.parametrize("mechanism", ["cross_attention", "context", "vector"])
def test_each_mechanism_acts_and_follows_the_features(transformer, adapter, features, mechanism):
    if mechanism not in adapter.config.mechanisms:
        return  # FLUX.2 has no pooled vector
    adapter = dataclasses.replace(adapter, idle=frozenset({"cross_attention", "context", "vector"} - {mechanism}))
    here = velocity(transformer, adapter, [row(adapter, features)] * 2)
    other = velocity(transformer, adapter, [row(adapter, make_features(seed=5))] * 2)
    assert (here - plain(transformer)).abs().max() > 1e-3
    assert (here - other).abs().max() > 1e-3


def test_a_row_without_dino_is_untouched_beside_one_with_it(transformer, adapter, features):
    mixed = velocity(transformer, adapter, [row(adapter, features), DinoRow()])
    assert (mixed[0] - plain(transformer)[0]).abs().max() > 1e-3
    assert torch.allclose(mixed[1], plain(transformer)[1], atol=1e-5)


def test_rows_of_a_batch_equal_the_same_rows_alone(transformer, adapter, features):
    rows = [row(adapter, features, box=(0, 0, 0.5, 1)), row(adapter, features, 0.3, box=(0.5, 0.5, 0.5, 0.5))]
    both, given = velocity(transformer, adapter, rows), inputs(transformer)
    for i in range(2):
        alone = velocity(
            transformer,
            adapter,
            rows[i : i + 1],
            latents=given["latents"][i : i + 1],
            sigmas=given["sigmas"][i : i + 1],
            text=Text(given["text"].context[i : i + 1], given["text"].pooled[i : i + 1]),
        )
        assert torch.allclose(both[i], alone[0], atol=1e-5)


def test_strength_is_continuous_at_zero(transformer, adapter, features):
    near = velocity(transformer, adapter, [row(adapter, features, 1e-4)] * 2)
    assert (near - plain(transformer)).abs().max() < 1e-2


def test_outside_its_window_dino_changes_no_bit(transformer, adapter, features):
    late = row(adapter, features, start_percent=0.7)  # sigma 0.4 is percent 0.6
    assert torch.equal(velocity(transformer, adapter, [late] * 2), plain(transformer))
    early = row(adapter, features, end_percent=0.7)
    assert not torch.equal(velocity(transformer, adapter, [early] * 2), plain(transformer))


def test_a_mask_limits_cross_attention_to_its_tokens(transformer, config, features):
    last_block = dataclasses.replace(  # nothing spreads afterwards
        config, mechanisms=("cross_attention",), sites=config.sites[-1:]
    )
    adapter = trained_like(new_adapter(last_block))
    top = torch.zeros(6, 4)
    top[:3] = 1
    half = HEIGHT // 2 * FAMILIES[config.geometry.family].patch
    masked = velocity(transformer, adapter, [row(adapter, features, mask=top)] * 2)
    off = plain(transformer)
    assert (masked[:, :, :half] - off[:, :, :half]).abs().max() > 1e-4
    assert torch.equal(masked[:, :, half:], off[:, :, half:])


def test_null_rows_use_the_learned_null(transformer, adapter):
    null = velocity(transformer, adapter, [DinoRow(None, 0, (0, 0, 1, 1), Strength(1.0))] * 2)
    with torch.no_grad():
        adapter.module.null_patch += 1
    other = velocity(transformer, adapter, [DinoRow(None, 0, (0, 0, 1, 1), Strength(1.0))] * 2)
    assert (null - other).abs().max() > 1e-4


def test_another_flux_is_refused_with_both_sides_named(transformer, config):
    other = dataclasses.replace(config, geometry=dataclasses.replace(config.geometry, context=4096))
    with pytest.raises(ValueError, match=r"context \d\d, .*made for.*context 4096"):
        DiffusersHost(transformer, vae_of(transformer), adapter=new_adapter(other))


def test_hooks_leave_with_the_adapter(transformer, adapter, features):
    velocity(transformer, adapter, [row(adapter, features)] * 2)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in transformer.modules())
