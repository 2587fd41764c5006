"""The script for a lent GPU: no part takes the others' results away."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import run as script

WRITES = "import sys, json; json.dump({'a': {'dino / plain': 1.5}}, open(sys.argv[1], 'w')); "


def part(code, limit=60.0):
    return script.Part("tried", limit, (sys.executable, "-c", code, "JSON"))


def ends(number):
    """Whether a process has ended, or does so within seconds; nobody may have asked for its exit code."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_part_that_ends_well_has_its_figures_and_no_log():
    found = script.measured(part(WRITES), seconds=60)
    assert found["state"] == "done" and found["figures"] == {"a": {"dino / plain": 1.5}} and "log" not in found
    assert dict(script.ratios({"tried": found})) == {"tried, a": 1.5}


def test_a_part_that_fails_keeps_what_it_measured_and_says_why():
    found = script.measured(part(WRITES + "raise SystemExit('too hot')"), seconds=60)
    assert found["state"] == "failed (1)" and "too hot" in found["log"] and found["figures"]["a"]
    missing = script.measured(script.Part("none", 60, ("no-such-program",)), seconds=60)
    assert missing["state"].startswith("failed ([Errno 2]")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_part_that_takes_too_long_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "LEAST", 0)
    child = "import subprocess, time; c = subprocess.Popen(['sleep', '60']); "
    child += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(c.pid)); time.sleep(60)"
    start = time.monotonic()
    found = script.measured(part(WRITES + child, limit=1.0), seconds=60)
    assert found["state"] == "stopped after 1 s" and found["figures"]["a"] and time.monotonic() - start < 20
    assert ends(int((tmp_path / "pid").read_text()))
    assert script.measured(part(WRITES), seconds=-1.0)["state"] == "not begun, the time was up"


def test_the_script_goes_on_after_a_failure_and_its_exit_code_tells(monkeypatch, capsys, tmp_path):
    def parts(comfyui, *, rehearse):
        assert rehearse
        return [script.Part("first", 60, ("false",)), script.Part("second", 60, part(WRITES).words)]

    monkeypatch.setattr(script, "parts_of", parts)
    for words, code in ((["--json", str(tmp_path / "r.json")], 1), (["second"], 0)):
        monkeypatch.setattr(sys, "argv", ["run", "--rehearse", *words])
        with pytest.raises(SystemExit) as left:
            script.main()
        assert left.value.code == code and "  1.5000  second, a" in capsys.readouterr().out
    told = json.loads((tmp_path / "r.json").read_text())
    assert [told["parts"][name]["state"] for name in ("first", "second")] == ["failed (1)", "done"]
    assert told["about"]["command"].startswith("bash benchmarks/gpu.sh --rehearse")


@pytest.mark.parametrize(
    ("place", "json", "said"),
    [
        ("", "none/r.json", "none of output r.json does not exist"),
        ("here", "r.json", "COMFYUI_PATH here is no ComfyUI"),
    ],
)
def test_wrong_paths_are_refused_before_anything_is_measured(monkeypatch, capsys, tmp_path, place, json, said):
    monkeypatch.setattr(script, "measured", lambda part, *, seconds: pytest.fail("has begun"))
    monkeypatch.setattr(sys, "argv", ["run", "--rehearse", "--json", str(tmp_path / json), "cost"])
    monkeypatch.setenv("COMFYUI_PATH", place)
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_no_time_is_no_time(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--rehearse", "--limit", "0", "cost"])
    with pytest.raises(SystemExit):
        script.main()
    assert "cost: not begun, the time was up" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_the_script_says_what_to_do_and_writes_nothing(tmp_path):
    before = script.RESULT.read_bytes() if script.RESULT.exists() else None
    ran = subprocess.run(
        ["bash", script.ROOT / "benchmarks" / "gpu.sh"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert ran.returncode == 2 and "no CUDA device here: use --rehearse" in ran.stderr
    assert before == (script.RESULT.read_bytes() if script.RESULT.exists() else None)
