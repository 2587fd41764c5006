import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.training.core.monitor import read_log
from dinotile.training.core.random import item_at
from dinotile.training.core.state import checkpoints, read_checkpoint, write_checkpoint
from dinotile.training.core.trainer import NotFiniteError

from ...limits import largest_file
from .. import tiny
from ..tiny import largest_difference, picture_folder, settings, tiny_trainer, weights

NOISE = 1e-6


def losses(folder):
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def run(config, **options):
    trainer = tiny_trainer(config)
    tiny.run(trainer, **options)
    return trainer


def interrupt_at(step):
    """For ``should_stop``, which is asked before every step: true in the step of that number."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) == step


@pytest.mark.parametrize(("cache", "guidance"), [(0, 1.0), (100, 2.0)])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(pictures, tmp_path, cache, guidance):
    sections = {"data": {"cache": cache, "windows": 2}, "conditions": {"dino_guidance": guidance}}
    sections["optimisation"] = {"learning_rate": 1e-3}  # at larger ones AdamW makes much of the last bits
    whole = run(settings(pictures, **sections, output={"folder": str(tmp_path / "whole")}))
    parts = settings(pictures, **sections, output={"folder": str(tmp_path / "parts")})
    run(parts, should_stop=interrupt_at(3))
    assert len(losses(tmp_path / "parts")) == 3
    resumed = run(parts)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=NOISE)
    assert largest_difference(weights(resumed), weights(whole)) < NOISE
    assert largest_difference(resumed.average.weights, whole.average.weights) < NOISE


def test_a_log_line_that_spans_the_interruption_equals_an_uninterrupted_one(pictures, tmp_path):
    for name in ("whole", "parts"):
        config = settings(pictures, output={"folder": str(tmp_path / name), "log_every": 5})
        run(config, should_stop=interrupt_at(3 if name == "parts" else 100))
    run(config)
    (line,), (whole,) = read_log(tmp_path / "parts"), read_log(tmp_path / "whole")
    assert line["loss"] == pytest.approx(whole["loss"], abs=NOISE)
    assert line["case_share"] == whole["case_share"]


def test_without_resume_the_checkpoints_of_an_earlier_run_are_left_alone(pictures, tmp_path):
    config = settings(pictures, output={"folder": str(tmp_path)}, optimisation={"steps": 2})
    run(config, resume=False)
    with pytest.raises(ValueError, match="holds step-000002 of an earlier run"):
        run(config, resume=False)
    assert run(config).done == 2 and len(losses(tmp_path)) == 2


def test_the_newest_whole_checkpoint_is_taken(pictures, tmp_path):
    config = settings(pictures, output={"folder": str(tmp_path), "save_every": 2, "keep": 2})
    run(config)
    assert [place.name for place in checkpoints(tmp_path)] == ["step-000004", "step-000006"]
    (tmp_path / "step-000006" / "average.safetensors").unlink()
    (tmp_path / ".step-000008.0.part").mkdir()
    assert checkpoints(tmp_path)[-1].name == "step-000004"
    run(config)
    assert sorted(place.name for place in tmp_path.glob("*step-*")) == ["step-000004", "step-000006"]


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def other_moments(path):
    save_file({"step.cls.weight": torch.zeros(())}, path)


def other_values(**changes):
    def damage(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.json", lambda path: path.write_bytes(b"\xff\x00")),
        ("state.json", cut),
        ("state.json", lambda path: path.write_text("[" * 100_000)),
        ("state.json", other_values(step="5")),
        ("state.json", other_values(log=[])),
        ("weights.safetensors", cut),
        ("optimizer.safetensors", cut),
        ("optimizer.safetensors", other_moments),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_to_do(pictures, tmp_path, name, damage):
    config = settings(pictures, output={"folder": str(tmp_path)}, optimisation={"steps": 1})
    run(config)
    damage(tmp_path / "step-000001" / name)
    with pytest.raises(ValueError, match=r"checkpoint .*step-000001 is damaged \(.*\): remove it and resume$"):
        run(config)


def in_half(place):
    path = place / "optimizer.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)


def of_no_precision(place):
    other_values(precision="")(place / "state.json")


@pytest.mark.parametrize(
    ("before", "now", "change", "told"),
    [
        ("no", "bf16", None, "precision 'no', this one has precision 'bf16'"),
        ("no", "fp16", None, "precision 'no', this one has precision 'fp16'"),
        ("fp16", "no", None, "precision 'fp16', this one has precision 'no'"),
        ("no", "fp16", of_no_precision, "precision 'of another kind', this one has precision 'fp16'"),
        ("no", "no", in_half, "an optimizer state in torch.float16, this one"),
    ],
)
def test_a_checkpoint_of_another_precision_is_refused_before_anything_is_learned(
    pictures, tmp_path, before, now, change, told
):
    def config(precision, steps):
        optimisation = {"precision": precision, "steps": steps}
        return settings(pictures, optimisation=optimisation, output={"folder": str(tmp_path)})

    run(config(before, 1))
    (change or (lambda place: None))(tmp_path / "step-000001")
    with pytest.raises(ValueError, match=rf"{told}.*set optimisation.precision to that run's, or begin anew"):
        run(config(now, 2))
    assert len(losses(tmp_path)) == 1


def test_a_checkpoint_that_does_not_say_its_precision_is_gone_on_from(pictures, tmp_path):
    run(settings(pictures, optimisation={"steps": 1}, output={"folder": str(tmp_path)}))
    of_no_precision(tmp_path / "step-000001")
    assert run(settings(pictures, optimisation={"steps": 2}, output={"folder": str(tmp_path)})).done == 2


def test_rubbish_in_the_log_does_not_stop_a_resumed_run(pictures, tmp_path):
    config = settings(pictures, output={"folder": str(tmp_path)})
    run(config, should_stop=interrupt_at(3))
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"null\n" + b"[" * 100_000 + b'\n\xff\x00\n{"step": 3, "lo')
    run(config)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fused", [True, False])
def test_a_run_whose_first_gradients_were_too_large_for_fp16_is_resumed_at_the_scale_that_it_found(
    pictures, tmp_path, fused
):
    config = settings(pictures, optimisation={"precision": "fp16"}, output={"folder": str(tmp_path)})
    trainer, resumed = tiny_trainer(config), tiny_trainer(config)
    for each in (trainer, resumed):
        each.optimizers = [torch.optim.AdamW(each.parameters.values(), fused=fused)]
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**30})
    start = weights(trainer)
    tiny.run(trainer, should_stop=interrupt_at(1))
    assert largest_difference(weights(trainer), start) > 0
    tiny.run(resumed, should_stop=interrupt_at(1))
    assert resumed.done == 2 and resumed.scaler.get_scale() == trainer.scaler.get_scale() < 2.0**30


def test_resuming_with_another_adapter_names_what_differs(pictures, tmp_path):
    config = settings(pictures, output={"folder": str(tmp_path)}, optimisation={"steps": 1})
    run(config)
    with pytest.raises(ValueError, match="differs in width"):
        tiny.run(tiny_trainer(config, width=8))


def test_the_adapter_file_is_the_average_and_says_where_it_comes_from(pictures, tmp_path):
    config = settings(pictures, output={"folder": str(tmp_path)}, optimisation={"steps": 3, "seed": 5})
    trainer = tiny_trainer(config)
    adapter = load_adapter(tiny.run(trainer))
    assert adapter.trained
    assert adapter.config.provenance["steps"] == 3
    assert adapter.config.provenance["optimisation"]["seed"] == 5
    assert largest_difference(dict(adapter.module.named_parameters()), trainer.average.weights) == 0
    assert largest_difference(trainer.average.weights, weights(trainer)) > 1e-4


def test_a_full_disk_leaves_the_old_checkpoint_and_adapter_intact(pictures, tmp_path):
    config = settings(pictures, output={"folder": str(tmp_path), "save_every": 2, "keep": 1})
    trainer = tiny_trainer(config)
    tiny.run(trainer, should_stop=interrupt_at(2))
    adapter = (tmp_path / "adapter.safetensors").read_bytes()
    trainer.step()
    with largest_file(20_000), pytest.raises(ValueError, match="File too large.*older ones are as they were"):
        write_checkpoint(tmp_path, trainer.state(), keep=1)
    assert sorted(path.name for path in tmp_path.glob("*step-*")) == ["step-000002"]
    assert read_checkpoint(tmp_path / "step-000002").step == 2
    assert (tmp_path / "adapter.safetensors").read_bytes() == adapter


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    pictures = picture_folder(tmp_path / "pictures", count=4)
    np.save(pictures / "02.t5.npy", np.full((8, 32), 3e38, dtype=np.float32))
    config = settings(
        pictures,
        conditions={"none": 0, "text": 1, "dino": 0, "both": 0},
        optimisation={"batch": 1, "steps": 8},
        output={"folder": str(tmp_path), "save_every": 1, "keep": 1},
    )
    shown = [item_at(step, count=4, seed=0) for step in range(4)]
    bad = shown.index(2) + 1
    assert bad > 1, "the seed must show a good picture first"
    trainer = tiny_trainer(config)
    tiny.run(trainer, should_stop=interrupt_at(bad - 1))
    good = weights(trainer)
    with pytest.raises(NotFiniteError, match=rf"not finite at step {bad} \(case text, picture 02.png\)"):
        tiny.run(trainer)
    assert largest_difference(weights(trainer), good) == 0
    kept = read_checkpoint(checkpoints(tmp_path)[-1])
    assert kept.step == bad - 1
    assert largest_difference(kept.weights, good) == 0


def test_a_loss_that_is_not_finite_from_the_start_saves_nothing(tmp_path):
    pictures = picture_folder(tmp_path / "pictures", count=1)
    np.save(pictures / "00.t5.npy", np.full((8, 32), 3e38, dtype=np.float32))
    config = settings(
        pictures, conditions={"none": 0, "text": 1, "dino": 0, "both": 0}, output={"folder": str(tmp_path)}
    )
    with pytest.raises(NotFiniteError, match="not finite at step 1 .*before anything was learned"):
        run(config)
    assert not checkpoints(tmp_path) and not (tmp_path / "adapter.safetensors").exists()


def test_weights_that_explode_are_told_with_the_step(pictures, tmp_path):
    trainer = tiny_trainer(settings(pictures, output={"folder": str(tmp_path)}))

    def explode(*_):
        for parameter in trainer.parameters.values():
            parameter.data.fill_(3e38)

    with pytest.raises(NotFiniteError, match="not finite at step 2 .*in .*step-000001: .*remove step-000001"):
        tiny.run(trainer, progress=explode)
    assert json.loads((tmp_path / "step-000001" / "state.json").read_text())["step"] == 1


def test_a_folder_of_another_versions_checkpoints_is_refused_and_left_alone(pictures, tmp_path):
    older = tmp_path / "step-000500"
    older.mkdir()
    (older / "ema.safetensors").write_bytes(b"older")
    (tmp_path / "log.jsonl").write_text('{"step": 500}\n')
    with pytest.raises(
        ValueError, match="holds step-000500, no whole checkpoint of this version: remove it, or choose"
    ):
        run(settings(pictures, output={"folder": str(tmp_path)}))
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 500}\n'
