import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from dinotile.cli.app import main
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.training.core.monitor import read_log
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

from ..tiny import picture
from ..training.conftest import pictures as pictures
from ..training.tiny import write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def configure(pictures, models, tmp_path):
    """Writes a configuration of which sections replace single values."""

    def write(**sections):
        config = {
            "model": models,
            "adapter": {"width": 16, "grid": 4},
            "data": {"path": str(pictures), "picture": 32, "tile": 16, "cache": 20},
            "optimisation": {"steps": 4, "batch": 2, "warmup": 2},
            "output": {"folder": str(tmp_path / "run"), "log_every": 1, "tensorboard": False},
        }
        merged = {name: {**config.get(name, {}), **sections.get(name, {})} for name in {**config, **sections}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(merged))
        return str(tmp_path / "config.yaml")

    return write


def start(config):
    return subprocess.Popen(
        [sys.executable, "-m", "dinotile.cli", "train", config],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupt_saves_and_the_same_command_goes_on(configure, tmp_path, monkeypatch, caplog):
    process = start(configure(optimisation={"steps": 1_000_000}))
    wait = time.monotonic() + 300
    while len(read_log(tmp_path / "run")) < 3 and time.monotonic() < wait:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "adapter.safetensors  (stopped early" in out and re.search(r"train .*loss \d+\.\d+", err)
    steps = load_adapter(tmp_path / "run" / "adapter.safetensors").config.provenance["steps"]
    assert steps == len(read_log(tmp_path / "run")) >= 3
    monkeypatch.setattr(sys, "argv", ["dinotile", "train", configure(optimisation={"steps": steps + 2})])
    with caplog.at_level("INFO", "dinotile"), pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert f"resumed after step {steps}, with other optimisation.steps" in caplog.text
    assert "pictures encoded" not in caplog.text
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, steps + 3))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"data": {"pth": "x"}}, "unknown data.pth (did you mean path?)"),
        ({"data": {"path": "/nowhere"}}, "/nowhere"),
        ({"data": {"path": ""}}, "data.path is empty"),
        ({"adapter": {"double_sites": [7]}}, "sites double.7"),
        ({"adapter": {"warm_start": "/nowhere.safetensors"}}, "/nowhere.safetensors"),
        ({"output": {"folder": "/proc/nowhere"}}, "/proc/nowhere cannot be made"),
    ],
)
def test_what_the_user_can_mend_is_one_line(configure, sections, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dinotile", "train", configure(**sections)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinotile: ")]
    assert told in line


def test_an_adapter_that_another_run_did_not_leave_to_go_on_with_is_not_replaced(configure, tmp_path, dinotile):
    (tmp_path / "run").mkdir()
    mine = tmp_path / "run" / "adapter.safetensors"
    mine.write_text("of somebody else")
    code, _, err = dinotile("train", configure(adapter={"warm_start": str(mine)}))
    assert code == 2 and "adapter.safetensors is there already" in err and mine.read_text() == "of somebody else"


def test_a_trained_adapter_guides_the_upscaler(configure, models, tmp_path, monkeypatch, capsys):
    optimisation = {"steps": 4, "learning_rate": 3e-2, "ema": 0.5}
    monkeypatch.setattr(sys, "argv", ["dinotile", "train", configure(optimisation=optimisation)])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    path = capsys.readouterr().out.strip()
    assert path == str(tmp_path / "run" / "adapter.safetensors")
    upscaler = load_upscaler("demo", model_path=models["model_path"], dino=models["dino"], adapter=path, device="cpu")
    results = [
        upscaler.upscale(picture(32, 32), settings_for("demo", dino_strength=strength, tile=32, overlap=0, steps=2))[0]
        for strength in (0.0, 1.0)
    ]
    assert (results[0] - results[1]).abs().max() > 1e-4
