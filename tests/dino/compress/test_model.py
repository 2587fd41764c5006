"""Patches to few tokens and back."""

import pytest
import torch

from dinotile.dino.compress.config import SIZES
from dinotile.dino.compress.model import new_flat

from ...near import assert_near
from .tiny import patches, quantised, tiny_config, tiny_flat


def trained(model, *, steps=120, keep=None):
    """The model after Adam on reconstruction; keep: numbers of tokens to restore from, drawn for each row."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        x = patches(32, seed=1000 + step)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(len(x), model.config.tokens, model.config.features, generator=generator)
        given = None if keep is None else torch.tensor(keep)[torch.randint(len(keep), (len(x),), generator=generator)]
        values = model.latents(x, 0.1 * noise).values
        loss = (model.decoder(values, given)[:, 0] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return model.eval()


def apart(model, x, **options):
    with torch.no_grad():
        return float((model.decode(model.encode(x), **options) - x).square().mean())


@pytest.mark.parametrize("changes", [{"tanh": True}, {"deterministic": True}, {"levels": (5, 3, 4)}])
def test_a_bottleneck_learns_to_restore_pictures_that_it_has_not_seen(changes):
    """test_task.py of training/flatdino has the plain one."""
    x = patches(16, seed=1)
    assert apart(trained(tiny_flat(**changes)), x) < 0.35 * float(x.square().mean())


def test_shapes_are_those_of_the_configuration():
    model = tiny_flat(tokens=5, features=7, encoder_registers=2, decoder_registers=3, inner="2")
    latents = model.encode(patches(2))
    assert latents.shape == (2, 5, 7)
    assert model.decode(latents).shape == (2, 4, 3, 24) and model.decode_layers(latents).shape == (2, 2, 4, 3, 24)
    assert_near(model.decode(latents), model.decode_layers(latents)[:, 0])


def test_places_are_rows_then_columns_and_the_encoder_takes_patches_in_any_order():
    """The second follows from having no positions: DINO's patches bring their own."""
    model, x = tiny_flat(), patches(2)
    latents = model.encode(x)
    shuffled = x.flatten(1, 2)[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))].unflatten(1, (4, 3))
    assert_near(model.encode(shuffled), latents)
    model.decoder.vit.blocks = torch.nn.ModuleList()  # so that each place is restored from its own token alone
    before = model.decode(latents)
    with torch.no_grad():
        model.decoder.places[5] += torch.randn(64, generator=torch.Generator().manual_seed(1))
    changed = (model.decode(latents) - before).abs().amax((0, 3)) > 1e-3
    assert changed.nonzero().tolist() == [[1, 2]]


def test_noise_moves_latents_by_the_deviation_and_kl_is_that_of_torch():
    model, x = tiny_flat(), patches(3)
    noise = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1))
    mean, log = model.encoder(x.flatten(1, 2)).chunk(2, dim=-1)
    drawn = model.latents(x, noise)
    assert_near(drawn.values, mean + noise * (log / 2).exp())
    mine, normal = torch.distributions.Normal(mean, (log / 2).exp()), torch.distributions.Normal(0, 1)
    assert_near(drawn.kl, torch.distributions.kl_divergence(mine, normal))
    assert_near(model.encode(x), mean)


def test_tanh_bounds_what_is_drawn_and_a_deterministic_model_ignores_noise():
    x, noise = patches(3), 100 * torch.ones(3, 4, 3)
    assert float(tiny_flat(tanh=True).latents(x, noise).values.detach().abs().max()) <= 1
    plain = tiny_flat(deterministic=True)
    assert torch.equal(plain.latents(x, noise).values, plain.encode(x)) and plain.latents(x).kl is None


def test_quantised_latents_lie_on_levels_and_are_their_codes():
    model = quantised()
    wide = torch.randn(400, 4, 3, generator=torch.Generator().manual_seed(0)) * 3
    values = model.bottleneck(wide).values
    assert [len(values[..., place].unique()) for place in range(3)] == [5, 3, 4]
    codes = model.codes(values)
    assert codes.shape == (400, 4) and codes.min() >= 0 and codes.max() < 60 and len(codes.unique()) == 60
    assert_near(model.from_codes(codes), values)


def test_of_nested_tokens_the_first_do_not_depend_on_later_registers():
    """And without nesting they do."""
    for nested in (True, False):
        model = quantised(nested=nested)
        before = model.encoder(patches(2).flatten(1, 2))
        one_block = model.encoder.vit.blocks[0]
        x = model.encoder.joined(patches(2).flatten(1, 2))
        mask = model.encoder.mask(x)
        seen = one_block(x, mask)
        with torch.no_grad():
            model.encoder.registers[3] += torch.randn(64, generator=torch.Generator().manual_seed(0))
        after = one_block(model.encoder.joined(patches(2).flatten(1, 2)), mask)
        assert torch.allclose(seen[:, :3], after[:, :3], atol=1e-6) == nested
        assert not torch.allclose(seen[:, 4:], after[:, 4:], atol=1e-6), "patches see all registers"
        assert before.shape == (2, 4, 3)


def test_fewer_tokens_restore_less_and_what_is_left_out_does_not_matter():
    model = trained(quantised(nested=True), steps=200, keep=(1, 2, 4))
    x = patches(64, seed=1)
    errors = [apart(model, x, keep=keep) for keep in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.2 * errors[2], errors
    latents = model.encode(x)
    other = torch.cat([latents[:, :2], latents[:, 2:].flip(0)], dim=1)
    assert_near(model.decode(other, keep=2), model.decode(latents, keep=2))
    assert not torch.allclose(model.decode(other), model.decode(latents), atol=1e-3)
    assert_near(model.decode(latents, keep=4), model.decode(latents))


def test_half_has_half_of_the_blocks_and_sizes_are_those_of_the_paper():
    whole, half = tiny_flat(half=False), tiny_flat(half=True)
    assert (len(whole.encoder.vit.blocks), len(half.decoder.vit.blocks)) == (4, 2)
    with torch.device("meta"):
        model = type(whole)(
            tiny_config(width=768, grid=(16, 16), tokens=32, features=128, encoder="s", decoder="b", half=False)
        )
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.encoder, model.decoder)]
    assert sizes == pytest.approx([28.8, 114.4], abs=0.5), (
        "the paper's 28 and 113 million, and their first and last layers"
    )
    assert SIZES["l"].depth == 24


def test_fresh_weights_follow_the_seed():
    one, same, other = (dict(new_flat(tiny_config(), seed=seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoder.registers"], other["encoder.registers"])


@pytest.mark.parametrize("flat", [tiny_flat, lambda: quantised(nested=True)])
def test_as_many_tokens_as_there_are_restore_what_all_do(flat):
    latents = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(flat().decode(latents, keep=4), flat().decode(latents))


@pytest.mark.parametrize(
    "call, said",
    [
        (
            lambda: tiny_flat().decode(torch.zeros(1, 5, 3)),
            r"latents have shape \[1, 5, 3\], needed is \[B, 4, 3\]: give",
        ),
        (lambda: tiny_flat().decode(torch.zeros(1, 4, 3), keep=2), "keep 2 needs a FlatDINO with nested tokens"),
        (
            lambda: quantised(nested=True).decode(torch.zeros(1, 4, 3), keep=5),
            "keep is 5, it must be from 1 to the 4 tokens",
        ),
        (lambda: tiny_flat().codes(torch.zeros(1, 4, 3)), "this FlatDINO has continuous latents, no codes"),
        (lambda: tiny_config(tokens=0), "tokens is 0, it must be a whole number from 1 to 1024: usually 32"),
        (lambda: tiny_config(encoder="x"), "encoder 'x' must be one of p, n, t, s, b, l"),
        (lambda: tiny_config(levels=(8, 5)), r"features 3 must be the number of levels \(8, 5\): 2"),
        (lambda: tiny_config(levels=(8, 5, 2)), "a level is 2, it must be a whole number from 3 to 4096"),
        (lambda: tiny_config(levels=(4096, 4096, 3)), "make more than 16,777,216 codes a token"),
        (lambda: tiny_config(nested=True), "nested needs quantised tokens"),
        (lambda: tiny_config(levels=(8, 5, 5), tanh=True), "leave tanh and deterministic out"),
        (lambda: tiny_config(inner="4"), "inner 4 is the layer that is compressed"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()
