"""What ``dinotile upscale`` makes of pictures and options."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinotile.files.pictures import load_picture

from ..tiny_text import save_text_pipeline
from .refused import photo as photo

SAMPLE = Path(__file__).parents[2] / "demo" / "sample.jpg"


EMPTY = """
import inspect
import typer
app = typer.Typer(add_completion=False)
@app.callback(invoke_without_command=True)
def base(version: bool = typer.Option(False, help="Print it.")): pass
def upscale(**options): pass
names = [f"option_number_{number}" for number in range(68)]
option = typer.Option(2.0, help="The size of the output over that of the input; usually 2 to 4. Range: 0.1 to 16.")
upscale.__signature__ = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=float) for name in names]
)
upscale.__annotations__ = dict.fromkeys(names, float)
app.command()(upscale)
app(["upscale", "--help"])
"""


def processor_seconds(code):
    """Of a Python process that ends by itself, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, result.stdout


def test_help_is_fast_and_loads_nothing_heavy():
    """Over an empty command of typer's with as many options, so that neither the machine nor typer's own imports and drawing
    count; the best of at most eight."""
    code = "import sys; sys.argv = ['dinotile', 'upscale', '--help']; from dinotile.cli.app import main\n"
    code += "try: main()\nexcept SystemExit: print(sorted({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)))"
    ours = empty = float("inf")
    for _ in range(8):
        seconds, said = processor_seconds(code)
        assert "--dino-strength" in said and said.strip().endswith("[]")
        ours, empty = min(ours, seconds), min(empty, processor_seconds(EMPTY)[0])
        if ours < empty + 0.2:
            return
    raise AssertionError(f"{ours} s, {empty} s of an empty command")


def test_the_bare_command_shows_its_help_and_version_its_version(dinotile):
    import dinotile as package

    code, out, err = dinotile()
    assert code == 0 and "upscale" in out and "run" in out
    assert dinotile("--version") == (0, f"dinotile {package.__version__}\n", "")


def test_a_picture_comes_out_at_twice_the_size_with_a_report(dinotile, models, photo, tmp_path):
    options = ["--report", tmp_path / "r.json", "--fidelity", 0.5, *models]
    code, out, err = dinotile("upscale", photo, "-o", tmp_path / "out.png", *options)
    assert (
        code == 0
        and "sample" in err
        and out.startswith(f"{tmp_path / 'out.png'}  104 x 80 px, 2 tiles, 2 steps, without DINO")
    )
    assert Image.open(tmp_path / "out.png").size == (104, 80)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["versions"]["torch"] == torch.__version__ and report["device"] == "cpu"
    assert report["dtype"] == "float32" and report["variant"] == "demo" and report["seconds"]["load"] > 0
    (done,) = report["pictures"]
    assert done["settings"]["fidelity"] == 0.5
    assert done["output"] == {"height": 80, "width": 104} and done["tiles"]["count"] == 2 and done["steps"] == 2
    assert (
        set(done["seconds"]) == {"dino", "encode", "sample", "decode", "measure"}
        and done["peak_memory"]["process"] > 50e6
    )
    assert done["fidelity"] is None and done["retry"] is None and done["seams"]["rows"] == 0
    assert {border["between"] for border in done["seams"]["worst"]} == {"columns"}
    assert sorted(os.listdir(tmp_path)) == ["out.png", "photo.png", "r.json"]


def test_the_readmes_first_command_runs_the_demo_with_the_documented_defaults(dinotile, tmp_path):
    code, out, _ = dinotile("upscale", SAMPLE, "-o", tmp_path / "out.png", "--report", tmp_path / "r.json")
    assert code == 0 and "768 x 512 px, 6 tiles, 6 steps, with DINO" in out
    assert Image.open(tmp_path / "out.png").size == (768, 512)
    report = json.loads((tmp_path / "r.json").read_text())
    (done,) = report["pictures"]
    documented = {"scale": 2, "denoise": 0.3, "steps": 6, "tile": 256, "overlap": 32, "guidance": 3.5, "fidelity": 1}
    assert documented.items() <= done["settings"].items()
    assert done["settings"]["seed"] == 0 and done["settings"]["dino_strength"] == 1
    fidelity = done["fidelity"]
    assert 0.9 < fidelity["score"] <= 1 and fidelity["worst"] < fidelity["score"]
    assert [len(fidelity[name][0]) for name in ("tiles", "plain_tiles")] == [6, 6] and abs(done["seams"]["score"]) < 0.1
    assert done["seconds"]["measure"] < 0.1 * done["seconds"]["sample"]


def test_a_second_run_writes_the_same_picture_and_another_seed_does_not(dinotile, models, photo, tmp_path):
    pictures = []
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        assert dinotile("upscale", photo, "-o", tmp_path / name, "--seed", seed, *models)[0] == 0
        pictures.append(np.asarray(Image.open(tmp_path / name), int))
    assert abs(pictures[1] - pictures[0]).max() <= 1  # each run loads its models
    assert abs(pictures[2] - pictures[0]).max() > 10


def test_several_pictures_of_every_kind_go_to_a_folder(dinotile, models, tmp_path):
    kinds = {
        "pixel": ("RGB", (1, 1)),
        "wide": ("L", (100, 10)),
        "clear": ("RGBA", (20, 24)),
        "deep": ("I;16", (16, 16)),
    }
    for name, (mode, size) in kinds.items():
        Image.new(mode, size, (9, 99, 199, 120) if mode == "RGBA" else 100).save(tmp_path / f"{name}.png")
    inputs = [tmp_path / f"{name}.png" for name in kinds]
    code, out, _ = dinotile("upscale", *inputs, "-o", f"{tmp_path}/out/", "--steps", 1, *models[:-2])
    assert code == 0 and out.count("\n") == 4
    for name, (_, (width, height)) in kinds.items():
        result = Image.open(tmp_path / "out" / f"{name}.png")
        assert result.size == (2 * width, 2 * height)
        assert result.mode == kinds[name][0]
    assert Image.open(tmp_path / "out" / "clear.png").getchannel("A").getextrema() == (120, 120)


def test_transparency_into_jpeg_is_said(dinotile, models, tmp_path):
    Image.new("RGBA", (20, 24), (9, 99, 199, 120)).save(tmp_path / "clear.png")
    code, out, _ = dinotile("upscale", tmp_path / "clear.png", "-o", tmp_path / "out.jpg", *models)
    assert code == 0 and "JPEG has no transparency, so the picture was put on white" in out
    assert load_picture(tmp_path / "out.jpg").pixels.shape == (1, 3, 48, 40)


def test_the_ways_to_little_memory_are_options_and_stand_in_the_report(dinotile, models, photo, tmp_path):
    pictures, reports = [], []
    for number, more in enumerate(([], ["--attention-slicing"], ["--weights", "fp8"])):
        out, report = tmp_path / f"{number}.png", tmp_path / f"{number}.json"
        code, said, _ = dinotile("upscale", photo, "-o", out, *models, "--report", report, *more)
        assert code == 0 and re.search(r" s, peak memory \d+\.\d\d GiB\n$", said)
        pictures.append(np.asarray(Image.open(out), int))
        reports.append(json.loads(report.read_text()))
    assert abs(pictures[1] - pictures[0]).max() <= 1 <= abs(pictures[2] - pictures[0]).max()
    assert [report["options"]["weights"] for report in reports] == ["full", "full", "fp8"]
    flux = [report["pictures"][0]["model_memory"]["flux"] for report in reports]
    assert flux[0] == flux[1] > 2 * flux[2]


def test_cfg_and_a_negative_prompt_guide_by_text(dinotile, models, photo, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(models[1], whole)
    (tmp_path / "text").mkdir()
    shutil.copytree(save_text_pipeline(tmp_path / "text"), whole, dirs_exist_ok=True)
    options = ["--variant", "schnell", "--dtype", "float32", "--model-path", whole, *models[2:-2], "--steps", 1]
    options += ["--denoise", 0.9, "--prompt", "cat"]
    pictures = []
    for number, more in enumerate(([], ["--cfg", 9], ["--cfg", 9, "--negative", "dog"])):
        out = tmp_path / f"{number}.png"
        assert dinotile("upscale", photo, "-o", out, *options, *more)[0] == 0
        pictures.append(np.asarray(Image.open(out), int))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(pictures[one] - pictures[other]).max() > 2


def test_one_tile_is_no_plural(dinotile, models, photo, tmp_path):
    code, out, _ = dinotile("upscale", photo, "-o", tmp_path / "out.png", *models, "--tile", 128, "--steps", 1)
    assert code == 0 and "px, 1 tile, 1 step, without DINO" in out
