import dataclasses
from collections import Counter

import pytest
import torch

from dinotile.dino.encode import EncodeSettings
from dinotile.flux_patch.families import FLUX1
from dinotile.flux_patch.rows import DinoRow
from dinotile.hosts.host import Text
from dinotile.training.adapter.config import ConditionSettings
from dinotile.training.adapter.dropout import KEPT, draw_kept, draw_sigma, draw_start
from dinotile.training.adapter.encode import EncodedPicture
from dinotile.training.adapter.step import ON, make_row, null_velocities, velocities, velocity_losses
from dinotile.training.core.random import generator_for, item_at

from ...dino.tiny import tiny_encoder
from ...near import assert_near
from ..tiny import settings, tiny_host, tiny_trainer


def rows_of(trainer, slots=range(8)):
    return dict(zip(slots, trainer.task.rows(list(slots), step=0, total=len(slots)), strict=True))


def row_of(picture, kept, sigma=0.5, *, tile=32, generator=None, **options):
    generator = generator or torch.Generator().manual_seed(0)
    return make_row(picture, family=FLUX1, kept=kept, sigma=sigma, tile=tile, generator=generator, **options)


def encoded(*, seed=0, side=6, tokens=8):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, 8 * side, 8 * side, generator=generator)
    latents = torch.randn(16, side, side, generator=generator)
    context, pooled = torch.randn(1, tokens, 32, generator=generator), torch.randn(1, 16, generator=generator)
    features = tiny_encoder("tiny-v2").encode(picture, settings=EncodeSettings(layers="3"))
    return EncodedPicture(str(seed), latents, features, Text(context, pooled, 1.0))


def trained_like(host):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in host.adapter.module.train().named_parameters():
        if not parameter.any() or name.endswith(".v.weight"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return host


@pytest.mark.parametrize("mechanisms", [("cross_attention",), ("context", "vector")])
def test_padding_that_is_masked_has_no_say(mechanisms):
    host = trained_like(tiny_host(mechanisms=mechanisms))
    row = row_of(encoded(tokens=8), "both", 0.3)
    other = torch.cat(
        [row.text.context[:, :5], torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(9))], dim=1
    )
    mask = torch.tensor([[True] * 5 + [False] * 3])

    def told(context, mask):
        return dataclasses.replace(row, text=dataclasses.replace(row.text, context=context, mask=mask))

    rows = [told(context, m) for m in (None, mask) for context in (row.text.context, other)]
    plain, plain_other, masked, masked_other = velocities(host, rows)
    assert_near(masked, masked_other)
    assert (plain - plain_other).abs().max() > 1e-3 and (plain - masked).abs().max() > 1e-3
    (shorter,) = velocities(host, [told(row.text.context[:, :5], None)])
    assert_near(masked, shorter)
    assert_near(velocities(host, rows[:1])[0], plain)  # a row without a mask beside one with is as it is alone


def test_text_that_is_dropped_has_no_mask():
    picture = encoded(tokens=8)
    picture = dataclasses.replace(
        picture, text=dataclasses.replace(picture.text, mask=torch.ones(1, 8, dtype=torch.bool))
    )
    assert row_of(picture, "both").text.mask is not None and row_of(picture, "dino").text.mask is None


def test_conditions_are_kept_in_their_shares():
    wanted = ConditionSettings()
    drawn = Counter(draw_kept(wanted, generator=generator_for("case", i)) for i in range(4000))
    for kept in KEPT:
        assert drawn[kept] / 4000 == pytest.approx(getattr(wanted, kept), abs=0.03)


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_noise_levels_fill_their_range(kind):
    generators = (generator_for("sigma", i) for i in range(2000))
    drawn = torch.tensor([draw_sigma((0.2, 0.6), sampling=kind, generator=one) for one in generators])
    assert 0.2 <= drawn.min() and drawn.max() <= 0.6
    assert drawn.mean() == pytest.approx(0.4, abs=0.01)
    spread = 0.4 / 12**0.5 if kind == "uniform" else 0.4 * 0.208  # of the logistic of a normal number
    assert drawn.std() == pytest.approx(spread, rel=0.05)


def test_every_epoch_shows_every_picture_once_in_its_own_order():
    first, second = ([item_at(7 * epoch + i, count=7, seed=0) for i in range(7)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_the_loss_is_the_squared_error_of_the_velocity():
    host = tiny_host()
    host.adapter.module.train()
    row = row_of(encoded(), "both", 0.3)
    mixed = (0.7 * row.clean + 0.3 * row.noise)[None]
    found = host.velocity(mixed, torch.tensor([0.3]), text=row.text)  # a fresh adapter adds nothing
    losses, sizes = velocity_losses(host, [row])
    assert losses.item() == pytest.approx((found[0] - (row.noise - row.clean)).square().mean().item(), rel=1e-5)
    assert sizes.item() == pytest.approx(found.square().mean().sqrt().item(), rel=1e-5)


def test_a_row_from_the_source_is_on_the_straight_way_from_the_noisy_source_to_the_picture():
    sources = torch.randn(16, 6, 6, generator=torch.Generator().manual_seed(5))
    picture = dataclasses.replace(encoded(), source=sources)

    levels = ((0.8, None), (0.8, 0.8), (0.4, 0.8))
    plain, begun, halfway = (row_of(picture, "both", sigma, start=start) for sigma, start in levels)
    top, left = (round(6 * share) for share in begun.box[:2])
    first = 0.2 * sources[:, top : top + 4, left : left + 4] + 0.8 * plain.noise
    assert (begun.sigma, halfway.sigma) == (0.8, 0.4) and torch.equal(begun.clean, plain.clean)
    assert torch.allclose(0.2 * begun.clean + 0.8 * begun.noise, first, atol=1e-6)
    assert torch.allclose(0.6 * halfway.clean + 0.4 * halfway.noise, (first + plain.clean) / 2, atol=1e-6)
    assert torch.allclose(halfway.noise - halfway.clean, (first - plain.clean) / 0.8, atol=1e-5)


def test_rows_begin_at_the_source_in_their_share_and_the_others_are_as_without(pictures):
    def trainer(share):
        conditions = {"from_source": share, "start": [0.4, 0.6]}
        return tiny_trainer(settings(pictures, conditions=conditions, optimisation={"sigma": [0.7, 1.0]}))

    conditions = trainer(0.5).task.config.conditions
    drawn = [draw_start(conditions, generator=generator_for("start", i)) for i in range(600)]
    begun = [start for start in drawn if start is not None]
    assert len(begun) / len(drawn) == pytest.approx(0.5, abs=0.06)
    assert 0.4 <= min(begun) < 0.42 and 0.58 < max(begun) <= 0.6
    never, some, always = (rows_of(trainer(share), range(16)) for share in (0.0, 0.5, 1.0))
    assert all(row.sigma <= 0.6 for row in always.values())
    same = [slot for slot in some if some[slot].sigma >= 0.7]
    assert 0 < len(same) < 16
    assert all(torch.equal(some[slot].noise, never[slot].noise) for slot in same)
    assert_near(*([rows[slot].noise for slot in some if slot not in same] for rows in (some, always)))


def test_rows_of_any_shape_together_equal_each_alone():
    host = trained_like(tiny_host(mechanisms=("cross_attention", "context", "vector")))
    generator = torch.Generator().manual_seed(0)
    pictures = [encoded(seed=0), encoded(seed=1, side=8), encoded(seed=2, tokens=5)]
    cases = ["both", "none", "dino", "text", "both", "both"]
    rows = [
        row_of(pictures[i % 3], case, 0.1 + 0.15 * i, tile=tile, generator=generator)
        for i, (case, tile) in enumerate(zip(cases, [32, 32, 32, 16, 0, 32], strict=True))
    ]
    together, _ = velocity_losses(host, rows)
    alone = torch.cat([velocity_losses(host, [row])[0] for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)
    assert len(set(alone.tolist())) == len(rows)


def test_a_dropped_condition_leaves_nothing_of_itself():
    host = trained_like(tiny_host(mechanisms=("cross_attention", "context", "vector")))
    own, other = encoded(seed=0), encoded(seed=1)
    swapped = dataclasses.replace(own, features=other.features)
    retold = dataclasses.replace(own, text=other.text)

    def loss(picture, case):
        return velocity_losses(host, [row_of(picture, case)])[0].item()

    for case, follows_dino, follows_text in (
        ("both", True, True),
        ("dino", True, False),
        ("text", False, True),
        ("none", False, False),
    ):
        assert (loss(swapped, case) != loss(own, case)) == follows_dino, case
        assert (loss(retold, case) != loss(own, case)) == follows_text, case


def test_guidance_that_is_learned_moves_the_target_of_rows_with_dino_away_from_the_null():
    host = trained_like(tiny_host(mechanisms=("cross_attention", "context", "vector")))
    host.adapter.module.requires_grad_(True)
    picture = encoded()

    def row(case):
        return row_of(picture, case)

    def velocity(case):
        dino = DinoRow(None, 0, row(case).box, ON)
        if case in ("both", "dino"):
            dino = dataclasses.replace(dino, tokens=host.adapter.module.project(picture.features))
        told = row("both" if case in ("both", "text") else "none")
        mixed = (0.5 * told.clean + 0.5 * told.noise)[None]
        return host.velocity(mixed, torch.tensor([0.5]), text=told.text, rows=[dino])[0]

    rows = [row(case) for case in ("text", "both", "dino")]
    null = null_velocities(host, rows)
    assert sorted(null) == [1, 2] and not null[1].requires_grad
    assert torch.allclose(null[1], velocity("text"), atol=1e-5) and torch.allclose(null[2], velocity("none"), atol=1e-5)
    losses, _ = velocity_losses(host, rows, guidance=2.5, null=null)
    plain, _ = velocity_losses(host, rows)
    assert losses[0] == plain[0]
    true = rows[1].noise - rows[1].clean
    for i, case in ((1, "both"), (2, "dino")):
        target = true + 0.6 * (velocity(case) - null[i]).detach()
        wanted = (velocity(case) - target).square().mean()
        assert losses[i].item() == pytest.approx(wanted.item(), rel=1e-4) != pytest.approx(plain[i].item(), rel=1e-3)
        weight = host.adapter.module.get_parameter("patches.conv.weight")
        found, expected = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (losses[i], wanted))
        assert found.any() and torch.allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_dropped_rows_teach_the_nulls_and_not_the_projector():
    host = tiny_host(mechanisms=("cross_attention", "context", "vector"))
    trained_like(host).adapter.module.requires_grad_(True)
    picture = encoded()
    for case, taught, untaught in (("text", "null_patch", "patches.conv.weight"), ("dino", "cls.weight", "null_cls")):
        host.adapter.module.zero_grad()
        velocity_losses(host, [row_of(picture, case)])[0].sum().backward()
        gradients = {name: parameter.grad for name, parameter in host.adapter.module.named_parameters()}
        assert gradients[taught].abs().max() > 0
        assert gradients[untaught] is None or not gradients[untaught].any()
    assert all(parameter.grad is None for parameter in host.transformer.parameters())


def test_the_window_and_its_box_are_the_same_place_on_the_token_grid():
    picture = encoded(side=16)
    places = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        row = row_of(picture, "both", tile=64, generator=generator)
        top, left, height, width = (round(16 * fraction) for fraction in row.box)
        assert (height, width) == (8, 8) and top % 2 == left % 2 == 0
        assert torch.equal(row.clean, picture.latents[:, top : top + 8, left : left + 8])
        places.add((top, left))
    assert len(places) > 15  # of 25


def test_dino_sees_a_worse_picture_than_flux_and_a_much_worse_one_in_the_weak_case(pictures):
    def distance(weak):
        trainer = tiny_trainer(
            settings(
                pictures,
                conditions={"none": 0, "text": 0, "dino": 0, "both": 1, "weak": weak},
                degradation={"scale": (2, 2), "weak_scale": (12, 12), "blur": (0, 0), "noise": (0, 0)},
            )
        )
        found = []
        for row in rows_of(trainer).values():
            index = trainer.task.data.names.index(row.picture)
            seen = generator_for(0, "remembered", row.picture, bool(weak))
            clean = trainer.task.pictures.features(trainer.task.data.get(index, generator=seen).pixels)
            found.append((row.features.patches - clean.patches).square().mean())
        return float(torch.stack(found).mean())

    assert 0.01 < distance(0) < 0.8 * distance(1)


def test_feature_noise_has_its_standard_deviation(pictures):
    config = settings(pictures, conditions={"none": 0, "text": 0, "dino": 0, "both": 1, "feature_noise": 0.3})
    noisy, clean = (rows_of(tiny_trainer(c)) for c in (config, settings(pictures, conditions={"none": 0.1})))
    for slot in noisy:
        if clean[slot].features is not None:
            added = noisy[slot].features.patches - clean[slot].features.patches
            assert added.std() == pytest.approx(0.3, rel=0.1)


def test_windows_of_one_picture_share_its_features_and_lie_apart(pictures):
    config = settings(
        pictures, data={"windows": 4, "cache": 0}, conditions={"none": 0, "text": 0, "dino": 0, "both": 1}
    )
    rows = rows_of(tiny_trainer(config))
    assert len({row.picture for row in rows.values()}) == 2
    for start in (0, 4):
        part = [rows[start + i] for i in range(4)]
        assert len({id(row.features) for row in part}) == 1
        assert len({row.box for row in part}) > 1


def test_windows_of_one_picture_are_encoded_once_also_in_micro_steps_of_one_row(pictures):
    conditions = {"none": 0, "text": 0, "dino": 0, "both": 1}
    losses = {}
    for batch, accumulation in ((4, 1), (1, 4)):
        config = settings(
            pictures,
            data={"windows": 4, "cache": 0},
            conditions=conditions,
            optimisation={"batch": batch, "accumulation": accumulation},
        )
        trainer, seen = tiny_trainer(config), []
        encode = trainer.task.pictures.encode
        trainer.task.pictures.encode = lambda index, *, encode=encode, seen=seen, **how: (
            seen.append(index) or encode(index, **how)
        )
        losses[batch] = [trainer.step().loss for _ in range(2)]
        assert len(seen) == 2 and len(trainer.task._drawn) == 1
    assert losses[1] == pytest.approx(losses[4], rel=1e-3)


def test_what_the_memory_holds_changes_no_row(pictures):
    rows = [rows_of(tiny_trainer(settings(pictures, data={"cache": cache})), range(24)) for cache in (1, 100)]
    for slot in rows[0]:
        assert_near(rows[0][slot].clean, rows[1][slot].clean)
        assert (rows[0][slot].features is None) == (rows[1][slot].features is None)
        if rows[0][slot].features is not None:
            assert_near(rows[0][slot].features.patches, rows[1][slot].features.patches)
