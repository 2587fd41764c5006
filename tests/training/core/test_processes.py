"""Several processes and several micro-steps are ways to compute one and the same step."""

import os
import subprocess
import sys

import pytest
import yaml

from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.training.adapter.config import load_config
from dinotile.training.adapter.run import train
from dinotile.training.core.monitor import read_log

from ..tiny import largest_difference, settings, tiny_trainer, weights, write_models

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


def test_two_processes_equal_one_with_the_same_total_batch(pictures, tmp_path):
    """One is this process."""
    models = write_models(tmp_path)
    adapters, logs = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        config = {
            "model": models,
            "adapter": {"width": 16, "grid": 4, "double_sites": [0], "single_sites": [1]},
            "data": {"path": str(pictures), "picture": 32, "tile": 16},
            "conditions": {"dino_guidance": 2.0},
            "optimisation": {"steps": STEPS, "batch": 4 // processes, "learning_rate": 1e-3, "warmup": 2},
            "output": {"folder": str(folder), "log_every": 1, "tensorboard": False},
        }
        path = tmp_path / f"{processes}.yaml"
        path.write_text(yaml.safe_dump(config))
        if processes == 1:
            train(load_config(path))
        else:
            launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
            ran = subprocess.run(
                [sys.executable, "-m", *launch, "-m", "dinotile.cli", "train", str(path)],
                env={**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert ran.returncode == 0, ran.stderr[-2000:]
            assert ran.stdout.strip() == str(folder / "adapter.safetensors"), "only the first process speaks"
        logs.append([line["loss"] for line in read_log(folder)])
        adapters.append(load_adapter(folder / "adapter.safetensors"))
    assert len(logs[0]) == STEPS
    assert logs[1] == pytest.approx(logs[0], abs=1e-4)
    one, two = (dict(adapter.module.named_parameters()) for adapter in adapters)
    assert largest_difference(one, two) < 1e-4
    assert adapters[1].config.provenance["rows_per_step"] == 4
