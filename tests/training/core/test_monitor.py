import time

import pytest
import torch

from dinotile.training.adapter.attention import AttentionMass
from dinotile.training.adapter.dropout import draw_start
from dinotile.training.adapter.step import draw_rows, velocity_losses
from dinotile.training.core.config import OutputSettings
from dinotile.training.core.monitor import Monitor, read_log
from dinotile.training.core.random import generator_for
from dinotile.training.core.trainer import StepReport

from ...near import assert_near
from ..tiny import run, settings, tiny_trainer

ALL = ("cross_attention", "context", "vector")


def test_a_line_of_the_log_says_what_a_trainer_wants_to_know(pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no picture")
    config = settings(pictures, optimisation={"steps": 8}, output={"folder": str(tmp_path), "log_every": 4})
    trainer = tiny_trainer(config, mechanisms=ALL)
    run(trainer)
    (pictures / "broken.png").unlink()
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [4, 8]
    for line in lines:
        assert sum(line["case_share"].values()) == pytest.approx(1)
        mean = sum(line["case_share"][case] * line["case_loss"][case] for case in line["case_share"])
        assert mean == pytest.approx(line["loss"], rel=1e-5)
        assert set(line["gradient_norms"]) == {"patches", "cls", "sites", "gate", "context", "vector", "null"}
        assert set(line["gates"]) == {"double.0", "single.1"}
        assert line["velocity"] > 0 and line["gradient_norm"] > 0 and line["seconds_per_step"] > 0
    assert lines[0]["gates"]["double.0"] != lines[1]["gates"]["double.0"]
    assert sum(lines[-1]["skipped"].values()) == 1


def test_the_losses_of_rows_that_begin_at_the_source_are_told_apart(pictures):
    """Against the same rows, drawn here."""
    conditions = only("both") | {"from_source": 0.5}
    trainer = tiny_trainer(settings(pictures, conditions=conditions, optimisation={"batch": 8}))
    task = trainer.task
    rows = draw_rows(task.pictures, range(8), step=0, first=0, count=task.count)
    wanted: dict[str, list[float]] = {}
    for slot, loss in zip(rows, velocity_losses(task.host, list(rows.values()))[0].tolist(), strict=True):
        begins = draw_start(task.config.conditions, generator=generator_for(0, "start", 0, slot)) is not None
        wanted.setdefault("both from source" if begins else "both", []).append(loss)
    found = trainer.step().case_losses
    assert len(found) == 2 and found.keys() == wanted.keys()
    for case, losses in found.items():
        assert losses == pytest.approx(wanted[case], rel=1e-5)


def test_the_seconds_of_a_step_are_without_validation_and_of_all_steps_of_the_line(tmp_path):
    settings = OutputSettings(log_every=3, tensorboard=False)
    monitor = Monitor(tmp_path, settings, step=1, sums={"steps": 1, "seconds": 30.0})  # of an interrupted run
    monitor.write({"step": 1, "validation": {}})
    for step in (2, 3):
        time.sleep(0.5)  # a validation
        monitor.write({"step": step, "validation": {}})
        line = monitor.record(StepReport(step, 1.0, {"none": [1.0]}, {"velocity": 1.0}, 1.0, 1e-4))
    assert 10 <= line["seconds_per_step"] < 10.1


def attention(trainer, *, kept="both"):
    """The mass that one call of untouched weights gives, and its parts' sizes."""
    rows = trainer.task.rows(range(4), step=0, total=4)
    assert all(row.kept == kept for row in rows)
    mass = AttentionMass()
    with mass.watching(trainer.task.host, rows):
        velocity_losses(trainer.task.host, rows)
    return mass.means()


def only(kept):
    return {**dict.fromkeys(("none", "text", "dino", "both"), 0.0), kept: 1.0}


@torch.no_grad()
def test_queries_of_zero_attend_to_every_token_alike(pictures):
    trainer = tiny_trainer(settings(pictures, conditions=only("both")), mechanisms=ALL)
    flux = trainer.task.host.transformer
    for block in (*flux.transformer_blocks, *flux.single_transformer_blocks):
        block.attn.norm_q.weight.zero_()
    found = attention(trainer)
    text, context, image = 8, 1 + 2 * 2, 2 * 2  # tokens of a 32 px window, with 2 x 2 pooled patches
    total = text + context + image
    expected = {"text": text, "context_cls": 1, "context_patches": context - 1, "image": image}
    for name, tokens in expected.items():
        assert found[name] == pytest.approx(tokens / total, rel=1e-4), name
    assert found["site_cls"] == pytest.approx(1 / 17, rel=1e-4)
    assert found["site_patches"] == pytest.approx(16 / 17, rel=1e-4)


def test_attention_shares_sum_to_one_and_rows_without_dino_have_none(pictures):
    trainer = tiny_trainer(settings(pictures, conditions=only("both")), mechanisms=ALL)
    found = attention(trainer)
    assert sum(share for name, share in found.items() if not name.startswith("site")) == pytest.approx(1, rel=1e-4)
    assert found["site_cls"] + found["site_patches"] == pytest.approx(1, rel=1e-4)
    assert found["site_cls"] != pytest.approx(1 / 17, rel=1e-2)
    assert attention(tiny_trainer(settings(pictures, conditions=only("none")), mechanisms=ALL), kept="none") == {}


def test_watching_changes_no_loss(pictures):
    watched, plain = (
        [trainer.step(details=details).loss for _ in range(3)]
        for details, trainer in ((True, tiny_trainer(settings(pictures))), (False, tiny_trainer(settings(pictures))))
    )
    assert_near(watched, plain)


def test_the_null_pass_of_guidance_is_not_watched(pictures):
    found = []
    for guidance in (1.0, 2.0):
        trainer = tiny_trainer(settings(pictures, conditions={"dino_guidance": guidance}), mechanisms=ALL)
        found.append(trainer.step(details=True).details["attention"])
    assert found[0]
    assert_near(found[1], found[0])


def test_tensorboard_gets_the_numbers_of_the_log(pictures, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = {"folder": str(tmp_path), "tensorboard": True, "sample_every": 2, "validation_pictures": 2}
    run(tiny_trainer(settings(pictures, optimisation={"steps": 2}, output=output)))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = read_log(tmp_path)
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    assert "gates/double.0" in events.Tags()["scalars"] and "samples" in events.Tags()["images"]
