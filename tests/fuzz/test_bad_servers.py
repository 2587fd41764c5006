import json
import subprocess
import sys
from pathlib import Path

from .bad_servers import PHASES, SECONDS, SOCKETS

ROOT = Path(__file__).parents[2]
COUNT, SEED = 90, 7
SLACK, LIMIT = 5, 100  # seconds after a deadline on a busy machine; for all of them


def test_no_server_breaks_a_run_holds_it_or_fills_the_memory():
    command = [sys.executable, "-m", "tests.fuzz.bad_servers", str(COUNT), str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    *runs, end = map(json.loads, done.stdout.splitlines())
    assert len(runs) == COUNT and {run["phase"] for run in runs} == set(PHASES)
    assert [run for run in runs if run["kind"] not in ("done", "refused")] == []
    assert [run for run in runs if not run["said"].isprintable() or len(run["said"]) > 1000] == []
    assert [run for run in runs if not all(line.isprintable() for line in run["shown"])] == []
    assert [run for run in runs if run["kind"] == "refused" and run["seconds"] > SECONDS + SLACK] == []
    assert [run for run in runs if run["name"] in SOCKETS and run["phase"] == "ws" and run["kind"] != "done"] == []
    assert end["memory"] < 1  # GiB
