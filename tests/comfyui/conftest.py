import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore

import pytest

from .graphs import soft_picture
from .jobs import HEIGHT, WIDTH, Job
from .models import write_models
from .server import Server

PACK = Path(__file__).parents[2]
LINES: list[str] = []
FAMILIES = pytest.mark.parametrize("of", ["", "flux2_"], ids=["FLUX.1", "FLUX.2"])  # whose checks have such prefixes
EVERY = pytest.mark.parametrize("of", ["", "flux2_", "chroma_", "krea2_"], ids=["FLUX.1", "FLUX.2", "Chroma", "Krea 2"])
SCRIPTS = {  # and their fixtures
    "inside.py": "measured",
    "inside_compile.py": "compiled",
    "inside_redux.py": "fitted",
    "inside_training.py": "trained",
}


def pytest_collection_modifyitems(items):
    """Tests that wait for a script come last, so that those of the server run beside it."""
    items.sort(key=lambda item: not set(SCRIPTS.values()).isdisjoint(getattr(item, "fixturenames", ())))


def pytest_terminal_summary(terminalreporter):
    if LINES:
        terminalreporter.section("measured with ComfyUI")
        for line in LINES:
            terminalreporter.write_line(line)


@pytest.fixture
def report():
    """Add a line to the numbers at the end of the run."""
    return LINES.append


@pytest.fixture(scope="session")
def host(request) -> Path:
    """The folder of a ComfyUI: COMFYUI_PATH, else ~/ComfyUI."""
    folder = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI")
    if not (folder / "main.py").is_file():
        sentence = f"there is no ComfyUI in {folder}: set COMFYUI_PATH to its folder to run these tests"
        if request.config.getoption("--require-host"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return folder


@pytest.fixture(scope="session")
def host_python(host) -> Path:
    places = [host / ".venv" / "bin" / "python", host / ".venv" / "Scripts" / "python.exe"]
    return next((place for place in places if place.exists()), Path(sys.executable))


@pytest.fixture(scope="session")
def base(host, tmp_path_factory) -> Path:
    """A ComfyUI base directory with the tiny models."""
    base = tmp_path_factory.mktemp("comfyui")
    write_models(base)
    return base


@dataclass
class Insides:
    """What the scripts measure: one at a time beside the tests of the server, two once somebody waits for a result."""

    futures: dict[str, Future[dict]]
    lanes: Semaphore
    awaited: bool = False

    def result(self, script: str) -> dict:
        if not self.awaited:
            self.awaited = True
            self.lanes.release()
        return self.futures[script].result()


@pytest.fixture(scope="session")
def insides(request, host, host_python, base, tmp_path_factory):
    """The scripts that the chosen tests need, each with models of its own."""
    needed = {name for item in request.session.items for name in item.fixturenames}
    scripts = [script for script, fixture in SCRIPTS.items() if fixture in needed]
    lanes = Semaphore(1)

    def run(script: str, own: Path) -> dict:
        with lanes:
            return measure_inside(script, host=host, host_python=host_python, base=own / "base", out=own / "out")

    with ThreadPoolExecutor(len(scripts) or 1) as pool:
        futures = {}
        for script in scripts:
            own = tmp_path_factory.mktemp(Path(script).stem)
            shutil.copytree(base, own / "base")
            (own / "out").mkdir()
            futures[script] = pool.submit(run, script, own)
        yield Insides(futures, lanes)


@pytest.fixture(scope="session")
def server(request, host, host_python, base):
    server = Server(host, host_python, base, PACK)
    server.start()
    request.getfixturevalue("insides")  # now, so that nothing lengthens the start, whose seconds a test asks of
    yield server
    server.stop()


@pytest.fixture
def clean_log(server):
    """Nothing that uses it may leave a traceback."""
    before = len(server.log)
    yield
    assert "Traceback" not in server.log[before:]


@pytest.fixture(scope="session")
def small(server) -> str:
    return server.upload(soft_picture(48, 64), "small.png")


@pytest.fixture
def job(server, tmp_path) -> Job:
    soft_picture(HEIGHT, WIDTH).save(tmp_path / "in.png")
    return Job(tmp_path, server.url)


def measure_inside(
    script: str,
    *,
    host: Path,
    host_python: Path,
    base: Path,
    out: Path,
    device: str = "cpu",
    checks: Sequence[str] = (),
) -> dict:
    """What a script of this folder measured inside a ComfyUI process: {check: {number: value}}; {"error": text} where one
    broke. checks: all where none is named."""
    command = [str(part) for part in (host_python, Path(__file__).parent / script, host, PACK, base, out, *checks)]
    environment = {**os.environ, "DINOTILE_DEVICE": device}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert (out / "numbers.json").is_file(), run.stdout[-4000:] + run.stderr[-4000:]
    return json.loads((out / "numbers.json").read_text()) | {"folder": str(out)}


def numbers_of(measured: dict):
    """A function that gives the numbers of a check by its name."""

    def of(check: str) -> dict:
        found = measured[check]
        assert "error" not in found, found["error"]
        return found

    return of


@pytest.fixture(scope="session")
def measured(insides) -> dict:
    return insides.result("inside.py")


@pytest.fixture(scope="session")
def trained(insides) -> dict:
    return insides.result("inside_training.py")


@pytest.fixture
def numbers(measured):
    return numbers_of(measured)


def apart(a, b) -> float:
    """Relative distance of two tensors."""
    return float((a - b).norm() / b.norm())


def one_sentence(said: str, parts: tuple[str, ...]) -> None:
    """That a ValueError was said in one sentence, with these parts."""
    kind, _, sentence = said.partition(": ")
    assert kind == "ValueError", said
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence
