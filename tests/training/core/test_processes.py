"""Several micro-steps are a way to compute one and the same step; ../flatdino/test_spread.py has several processes."""

import pytest

from ..tiny import largest_difference, settings, tiny_trainer, weights

STEPS = 3


def one_process(pictures, *, guidance=1.0, **optimisation):
    conditions = {"dino_guidance": guidance}
    optimisation = {"learning_rate": 1e-3, **optimisation}
    trainer = tiny_trainer(settings(pictures, conditions=conditions, optimisation=optimisation))
    reports = [trainer.step() for _ in range(STEPS)]
    return [report.loss for report in reports], weights(trainer), trainer


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_accumulated_micro_steps_equal_one_large_batch(pictures, guidance):
    large, large_weights, trainer = one_process(pictures, batch=4, guidance=guidance)
    small, small_weights, other = one_process(pictures, batch=1, accumulation=4, guidance=guidance)
    assert trainer.rows_per_step == other.rows_per_step == 4
    assert small == pytest.approx(large, abs=1e-4)
    assert largest_difference(small_weights, large_weights) < 1e-4
    fewer, _, _ = one_process(pictures, batch=1, accumulation=2, guidance=guidance)
    assert fewer != pytest.approx(large, abs=1e-4)
