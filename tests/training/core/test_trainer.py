import math
import shutil

import numpy as np
import pytest
import torch

from dinotile.training.adapter.step import draw_rows, null_velocities, velocities
from dinotile.training.core.monitor import read_log
from dinotile.training.core.optimiser import part_of, rate_at
from dinotile.training.core.trainer import NotFiniteError

from ..tiny import largest_difference, run, settings, tiny_host, tiny_trainer, weights

ALL = ("cross_attention", "context", "vector")


def test_training_teaches_flux_to_follow_the_features(pictures):
    config = settings(
        pictures,
        data={"flip": False},
        conditions={"none": 0, "text": 0.1, "dino": 0, "both": 0.9, "weak": 0},
        optimisation={"steps": 100, "batch": 8, "learning_rate": 3e-3, "sigma": (1.0, 1.0)},
        output={"validation_pictures": 12},
    )
    trainer = tiny_trainer(config)
    before = trainer.step().loss
    for _ in range(99):
        after = trainer.step().loss
    with trainer.average.in_place():
        found = trainer.task.validate()
    assert after < 0.8 * before
    assert found["own"] < 0.97 * min(found["swap"], found["text"], found["none"])


def test_an_adapter_that_learns_guidance_answers_more_strongly_in_the_same_direction(pictures):
    answers = []
    for guidance in (1.0, 2.0):
        config = settings(
            pictures,
            data={"flip": False},
            conditions={"none": 0.25, "text": 0, "dino": 0.75, "both": 0, "weak": 0, "dino_guidance": guidance},
            optimisation={"batch": 8, "learning_rate": 3e-3, "sigma": (1.0, 1.0)},
        )
        trainer = tiny_trainer(config)
        for _ in range(60):
            trainer.step()
        rows = list(draw_rows(trainer.task.pictures, range(32), step=999, first=0, count=trainer.task.count).values())
        with torch.no_grad():
            found, null = velocities(trainer.task.host, rows), null_velocities(trainer.task.host, rows)
        answers.append(torch.stack([found[i] - null[i] for i in null]).flatten())
    plain, guided = answers
    assert torch.cosine_similarity(plain, guided, dim=0) > 0.8
    assert 1.15 < float(plain @ guided / (plain @ plain)) < 2.5


def test_only_the_adapter_moves(pictures):
    trainer = tiny_trainer(settings(pictures), mechanisms=ALL)
    frozen = {name: tensor.clone() for name, tensor in trainer.task.host.transformer.state_dict().items()}
    start = weights(trainer)
    for _ in range(4):
        trainer.step()
    assert largest_difference(dict(trainer.task.host.transformer.state_dict()), frozen) == 0
    still = [name for name, tensor in weights(trainer).items() if torch.equal(tensor, start[name])]
    assert not still


def test_the_learning_rate_warms_up_and_falls_to_a_tenth_and_knows_only_the_step():
    rates = [rate_at(step / 1000, step=step, warmup=100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01, rel=1e-3)
    assert max(rates) < 1.0 and rates.index(max(rates)) in range(95, 101)
    assert rates[500] == pytest.approx(0.55, rel=1e-3) and rates[-1] == pytest.approx(0.1, rel=1e-3)
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))


@pytest.mark.parametrize("mechanisms", [("cross_attention",), ALL])
def test_gradient_checkpointing_computes_twice_and_changes_no_gradient(pictures, mechanisms):
    norms, after, calls = [], [], []
    for checkpointing in (False, True):
        config = settings(pictures, optimisation={"learning_rate": 1e-3})
        trainer = tiny_trainer(config, checkpointing=checkpointing, mechanisms=mechanisms)
        for _ in range(2):
            trainer.step()
        block = trainer.task.host.transformer.single_transformer_blocks[1]
        seen: list[bool] = []
        block.register_forward_pre_hook(lambda *_, seen=seen: seen.append(True))
        norms.append(trainer.step(details=True).part_norms)
        after.append(weights(trainer))
        calls.append(len(seen))
    assert calls == [1, 2]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert largest_difference(*after) < 1e-5


@pytest.mark.parametrize(("mechanisms", "again"), [(("cross_attention",), [1, 1, 2]), (ALL, [2, 2, 2])])
def test_blocks_before_the_first_that_needs_a_gradient_are_computed_once_and_keep_nothing(pictures, mechanisms, again):
    trainer = tiny_trainer(settings(pictures), checkpointing=True, mechanisms=mechanisms, sites=("single.1",))
    flux = trainer.task.host.transformer
    begun, graphs = [], {}
    for place, block in enumerate([*flux.transformer_blocks, *flux.single_transformer_blocks]):
        block.register_forward_pre_hook(lambda *_, place=place: begun.append(place))
        block.register_forward_hook(
            lambda module, args, out, place=place: graphs.update({place: any(t.requires_grad for t in out)})
        )
    trainer.step()
    assert [begun.count(place) for place in graphs] == again
    assert graphs == {place: times == 2 for place, times in enumerate(again)}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close_and_keeps_float32_weights(pictures, precision):
    losses = {}
    for name in ("no", precision):
        config = settings(pictures, optimisation={"precision": name, "learning_rate": 1e-3})
        trainer = tiny_trainer(config, mechanisms=ALL)
        losses[name] = [trainer.step().loss for _ in range(4)]
    assert losses[precision] == pytest.approx(losses["no"], rel=0.03)
    assert losses[precision] != losses["no"]
    assert all(parameter.dtype == torch.float32 for parameter in trainer.parameters.values())


def test_the_null_pass_of_guidance_leaves_half_precision_its_gradient(pictures):
    config = settings(pictures, conditions={"dino_guidance": 2.0}, optimisation={"precision": "bf16"})
    norms = tiny_trainer(config, mechanisms=ALL).step(details=True).part_norms
    assert all(norms[part] > 0 for part in ("sites", "context", "vector")), norms


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "bf16"), ("float16", "fp16")])
def test_a_flux_in_half_precision_trains(pictures, dtype, precision):
    config = settings(pictures, model={"dtype": dtype}, optimisation={"precision": precision, "learning_rate": 1e-3})
    trainer = tiny_trainer(config, mechanisms=ALL, dtype=getattr(torch, dtype), checkpointing=True)
    start = weights(trainer)
    assert math.isfinite(sum(trainer.step().loss for _ in range(3)))
    assert largest_difference(weights(trainer), start) > 1e-4


def test_a_flux_in_8_bits_has_the_gradient_of_its_rounded_weights(pictures):
    norms, rounded = [], torch.float8_e4m3fn
    for kept in (False, True):
        config = settings(pictures, model={"dtype": "bfloat16"}, optimisation={"precision": "bf16"})
        trainer = tiny_trainer(config, mechanisms=ALL, dtype=torch.bfloat16, checkpointing=True)
        flux = trainer.task.host.transformer
        flux.enable_layerwise_casting(rounded, compute_dtype=torch.bfloat16)
        narrow = [parameter for parameter in flux.parameters() if parameter.dtype == rounded]
        assert sum(map(torch.numel, narrow)) > 0.5 * sum(map(torch.numel, flux.parameters()))
        if not kept:
            plain = tiny_trainer(config, mechanisms=ALL, dtype=torch.bfloat16, checkpointing=True)
            state = {name: tensor.to(torch.bfloat16) for name, tensor in flux.state_dict().items()}
            plain.task.host.transformer.load_state_dict(state)
            trainer = plain
        norms.append(trainer.step(details=True).part_norms)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_gradients_too_large_for_fp16_are_computed_again_at_a_smaller_scale_of_the_loss(pictures):
    ends = []
    for scale in (256.0, 2.0**40):
        trainer = tiny_trainer(settings(pictures, optimisation={"precision": "fp16", "learning_rate": 1e-3}))
        trainer.scaler.scale(torch.zeros(()))
        trainer.scaler.update(new_scale=scale)
        report = trainer.step()
        assert math.isfinite(report.gradient_norm) and trainer.done == 1
        ends.append((report.gradient_norm, trainer.scaler.get_scale()))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=0.02)
    assert ends[0][1] == 256 < ends[1][1] < 2**40


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_gradient_that_no_scale_makes_finite_ends_the_run(pictures, precision):
    trainer = tiny_trainer(settings(pictures, optimisation={"precision": precision}))
    trainer.parameters["cls.weight"].register_hook(lambda gradient: gradient * math.nan)
    start = weights(trainer)
    with pytest.raises(NotFiniteError, match="gradient is not finite at step 1"):
        trainer.step()
    assert largest_difference(weights(trainer), start) == 0 and trainer.done == 0


def test_attention_that_is_differentiated_never_runs_in_cudnn_not_even_when_it_is_computed_again(pictures):
    for checkpointing in (False, True):
        trainer, seen = tiny_trainer(settings(pictures), checkpointing=checkpointing), []
        for name in ("transformer_blocks.0.attn", "single_transformer_blocks.1.attn"):
            attention = trainer.task.host.transformer.get_submodule(name)
            attention.register_forward_pre_hook(
                lambda *_, seen=seen: seen.append(torch.backends.cuda.cudnn_sdp_enabled())
            )
        trainer.step()
        assert seen == [False] * (4 if checkpointing else 2)
        assert torch.backends.cuda.cudnn_sdp_enabled()


def test_the_loss_scale_of_fp16_is_resumed(pictures, tmp_path):
    config = settings(pictures, optimisation={"precision": "fp16", "steps": 3}, output={"folder": str(tmp_path)})
    first = tiny_trainer(config)
    first.step()
    first.scaler.update(new_scale=512.0)
    run(first)
    second = tiny_trainer(config)
    run(second)
    assert second.done == 3 and second.scaler.get_scale() == 512.0


def test_the_average_follows_the_weights(pictures):
    trainer = tiny_trainer(settings(pictures, optimisation={"ema": 0.5}))
    expected = weights(trainer)
    for step in range(1, 4):
        trainer.step()
        decay = min(0.5, step / (step + 9))
        expected = {name: decay * expected[name] + (1 - decay) * now for name, now in weights(trainer).items()}
    assert largest_difference(trainer.average.weights, expected) < 1e-6
    now = weights(trainer)
    with trainer.average.in_place():
        assert largest_difference(weights(trainer), trainer.average.weights) == 0
    assert largest_difference(weights(trainer), now) == 0


def test_gradients_are_clipped_and_told_as_they_were(pictures):
    free, clipped = (
        tiny_trainer(settings(pictures, optimisation={"clip": clip})).step(details=True) for clip in (0.0, 1e-3)
    )
    assert clipped.gradient_norm == pytest.approx(free.gradient_norm) and free.gradient_norm > 1e-2
    total = math.sqrt(sum(norm**2 for norm in free.part_norms.values()))
    assert total == pytest.approx(free.gradient_norm, rel=1e-4)


def test_the_parts_of_an_adapter_are_what_its_parameters_names_begin_with():
    names = dict(tiny_host(mechanisms=ALL).adapter.module.named_parameters())
    assert {part_of(name) for name in names} == {"patches", "cls", "sites", "gate", "context", "vector", "null"}


def test_progress_is_told_for_every_step(pictures, tmp_path):
    told = []
    run(
        tiny_trainer(settings(pictures, optimisation={"steps": 3}, output={"folder": str(tmp_path)})),
        progress=lambda *step: told.append(step),
    )
    first, second, third = (line["loss"] for line in read_log(tmp_path))
    means = (first, 0.98 * first + 0.02 * second, 0.98**2 * first + 0.98 * 0.02 * second + 0.02 * third)
    assert told == [("train", step, 3, f"loss {mean:.4f}") for step, mean in enumerate(means, start=1)]


@pytest.mark.parametrize("kind, width, said", [("t5", 48, "text tokens"), ("clip", 24, "a pooled text")])
def test_text_of_another_width_is_refused_with_both_named(pictures, tmp_path, kind, width, said):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    first = next(folder.glob("*.png"))
    np.save(folder / f"{first.stem}.{kind}.npy", np.zeros((8, width) if kind == "t5" else width, np.float16))
    trainer = tiny_trainer(settings(folder, conditions={"none": 0, "text": 1, "dino": 0, "both": 0}))
    with pytest.raises(ValueError, match=f"brings {said} {width} wide, the model takes"):
        for _ in range(20):
            trainer.step()
