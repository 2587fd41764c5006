import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile.files.pictures import Picture, load_picture, save_picture

from ..limits import largest_file
from ..tiny import overflowing, picture, tiny_vae
from ..tiny_text import save_text_pipeline

SAMPLE = Path(__file__).parents[2] / "demo" / "sample.jpg"
LIMIT = 200  # seconds


@pytest.fixture
def photo(tmp_path):
    save_picture(Picture(picture(40, 52)), tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refused(dinotile, words, *arguments, folder):
    before = sorted(os.listdir(folder))
    code, out, err = dinotile("upscale", *arguments)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("dinotile: ") and words in err
    assert sorted(os.listdir(folder)) == before


EMPTY = """
import typer
app = typer.Typer(add_completion=False)
@app.callback(invoke_without_command=True)
def base(version: bool = typer.Option(False, help="Print it.")): pass
@app.command()
def upscale(inputs: list[str], scale: float = typer.Option(2.0, help="Of both sides.")): pass
app(["upscale", "--help"])
"""


def processor_seconds(code):
    """Of a Python process that ends by itself, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, result.stdout


def test_help_is_fast_and_loads_nothing_heavy():
    """Over an empty command of typer's, so that neither the machine nor typer's own imports count; the best of three."""
    code = "import sys; sys.argv = ['dinotile', 'upscale', '--help']; from dinotile.cli.app import main\n"
    code += "try: main()\nexcept SystemExit: print(sorted({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)))"
    pairs = [(processor_seconds(code), processor_seconds(EMPTY)) for _ in range(3)]
    assert all("--dino-strength" in ours[1] and ours[1].strip().endswith("[]") for ours, _ in pairs)
    assert min(ours[0] for ours, _ in pairs) < min(empty[0] for _, empty in pairs) + 0.2


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


def test_wrong_input_is_one_line_exit_code_2_and_no_file(dinotile, models, photo, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder").mkdir()
    out = ["-o", tmp_path / "out.png"]
    for words, *arguments in [
        ("missing.png does not exist", tmp_path / "missing.png", *out),
        ("not a readable picture", tmp_path / "text.png", *out),
        ("empty.png is not a readable picture (it has 0 bytes)", tmp_path / "empty.png", *out),
        ("not a readable picture", photo, tmp_path / "text.png", "-o", f"{tmp_path}/out/"),
        ("overlap 64 must be smaller than tile 64", photo, *out, "--overlap", 64, "--tile", 64),
        ("tile 100 must be a multiple of 16", photo, *out, "--tile", 100),
        ("tile 0 must be from 16 to 4096", photo, *out, "--tile", 0),
        ("tile -16 must be from 16 to 4096", photo, *out, "--tile", -16),
        ("denoise 2.0 must be from 0 to 1", photo, *out, "--strength", 2),
        ("denoise 2.0 must be from 0 to 1", photo, *out, "--denoise", 2),
        ("scale 0.05 must be from 0.1 to 16", photo, *out, "--scale", 0.05),
        ("variant 'pro' must be one of", photo, *out, "--variant", "pro"),
        ("ends in .gif", photo, "-o", tmp_path / "out.gif"),
        ("does not exist: create it first", photo, "-o", tmp_path / "no" / "out.png"),
        ("is the input itself", photo, "-o", photo),
        ("is also one of the pictures", photo, *out, "--report", tmp_path / "folder" / ".." / "photo.png"),
        ("is also one of the pictures", photo, *out, "--report", tmp_path / "out.png"),
        ("output r.json does not exist", photo, *out, "--report", tmp_path / "no" / "r.json"),
        ("No such option", photo, *out, "--nonsense"),
        ("--steps", photo, *out, "--steps", "many"),
        ("there is no model", photo, *out, "--model-path", tmp_path / "missing.safetensors"),
        ("device 'tpu'", photo, *out, *models, "--device", "tpu"),
        ("dtype 'int8'", photo, *out, *models, "--dtype", "int8"),
        ("weights 'int8' must be one of full, fp8, nf4", photo, *out, *models, "--weights", "int8"),
        ("offload 'disk' must be one of none, model, seq", photo, *out, *models, "--offload", "disk"),
        ("device cpu computes there: leave offload out", photo, *out, *models, "--offload", "model", "--device", "cpu"),
        ("prompt acts with FLUX's text encoders", photo, *out, *models, "--prompt", "a cat"),
        ("negative acts with FLUX's text encoders", photo, *out, *models, "--negative", "a cat", "--cfg", 2),
        ("negative acts with cfg above 1 only", photo, *out, *models, "--negative", "a cat"),
        ("cfg 0.5 must be from 1 to 30", photo, *out, *models, "--cfg", 0.5),
        ("dino acts without no_dino only", photo, *out, *models, "--dino", "x.safetensors"),
        ("an adapter was given without a DINO model", photo, *out, "--variant", "dev", "--adapter", "x.safetensors"),
        ("a DINO model was given without an adapter", photo, *out, "--variant", "dev", "--dino", "x.safetensors"),
    ]:
        refused(dinotile, words, *arguments, folder=tmp_path)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(dinotile, models, photo, tmp_path):
    for words, *arguments in [
        ("output /proc/out.png cannot be written", "-o", "/proc/out.png"),
        ("output /proc/r.json cannot be written", "-o", tmp_path / "out.png", "--report", "/proc/r.json"),
        ("folder /proc/out cannot be made", "-o", "/proc/out/"),
        ("photo.png/out cannot be made (Not a directory)", "-o", f"{photo}/out/"),
    ]:
        refused(dinotile, words, photo, *arguments, *models, folder=tmp_path)


def test_a_disk_that_is_full_in_the_middle_is_one_sentence_and_no_file(dinotile, models, photo, tmp_path):
    with largest_file(4000):
        code, out, err = dinotile("upscale", photo, "-o", tmp_path / "out.png", *models)
    sentence = (
        f"dinotile: output {tmp_path / 'out.png'} cannot be written (File too large): make room or choose another place"
    )
    assert (code, out, err.splitlines()[-1]) == (2, "", sentence)
    assert "Traceback" not in err and os.listdir(tmp_path) == ["photo.png"]


def test_a_fault_of_the_program_keeps_its_traceback(dinotile, models, photo, tmp_path, monkeypatch):
    from dinotile.upscaling import pipeline as engine

    monkeypatch.setattr(engine, "pad_to_grid", lambda *args, **options: torch.zeros(2, 3).view(7))
    monkeypatch.setattr(sys, "argv", ["dinotile", "upscale", str(photo), "-o", str(tmp_path / "out.png"), *models])
    from dinotile.cli.app import main

    with pytest.raises(RuntimeError, match="shape"):
        main()
    assert os.listdir(tmp_path) == ["photo.png"]


def test_ctrl_c_leaves_nothing_and_the_next_run_works(dinotile, dinotile_process, models, photo, tmp_path, monkeypatch):
    """Interrupted when the models sample, which a thousand steps make long."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # bars move, as in a terminal
    monkeypatch.setenv("TERM", "xterm")
    process = dinotile_process(
        "upscale",
        *(photo, "-o", tmp_path / "out.png", *models, "--steps", "1000", "--scale", "8"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        read_until(process, b"sample")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    said = err.splitlines()[-1].removeprefix("\x1b[?25h")  # the terminal's cursor, shown again
    assert process.returncode == 130 and said == "dinotile: interrupted, nothing half-written was left"
    assert os.listdir(tmp_path) == ["photo.png"]
    monkeypatch.delenv("FORCE_COLOR")
    assert dinotile("upscale", photo, "-o", tmp_path / "out.png", *models)[0] == 0


def read_until(process, word):
    """Read what the process says on stderr, as it comes, until it says the word."""
    said, end = b"", time.monotonic() + LIMIT
    while word not in said:
        assert select.select([process.stderr], [], [], max(0, end - time.monotonic()))[0], said
        more = os.read(process.stderr.fileno(), 4096)
        assert more, said
        said += more


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_full_memory_is_said_on_every_device(dinotile, models, photo, tmp_path, monkeypatch, error):
    from dinotile.upscaling import pipeline as engine

    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(engine, "pad_to_grid", full)
    words = "ran out of memory: use less at a time (tile, scale, batch), or --device cpu"
    refused(dinotile, words, photo, "-o", tmp_path / "out.png", *models, folder=tmp_path)


def test_half_precision_that_overflows_is_one_line_and_no_black_picture(dinotile, models, photo, tmp_path):
    overflowing(tiny_vae()).save_pretrained(tmp_path / "vae")
    options = ["-o", tmp_path / "out.png", *models, "--vae-path", tmp_path / "vae", "--dtype"]
    code, out, err = dinotile("upscale", photo, *options, "float16")
    assert code == 2 and out == "" and not (tmp_path / "out.png").exists()
    words = "stage decode gave values that are NaN or infinite, and no picture: use float32 (--dtype float32"
    assert err.splitlines()[-1].startswith(f"dinotile: {words}")
    assert dinotile("upscale", photo, *options, "float32")[0] == 0


def test_existing_files_are_replaced_with_overwrite_only_and_left_out_with_skip_existing(
    dinotile, models, photo, tmp_path, monkeypatch
):
    out, report = tmp_path / "out.png", tmp_path / "r.json"
    out.write_bytes(b"of somebody else")
    loaded = []
    from dinotile.upscaling import api

    monkeypatch.setattr(api, "load_transformer", lambda *given, **more: loaded.append(given) or 1 / 0)
    refused(dinotile, "out.png exists already", photo, "-o", out, *models, folder=tmp_path)
    report.write_text("of somebody else")
    options = [*models, "--report", report]
    refused(dinotile, "r.json exists already", photo, "-o", tmp_path / "new.png", *options, folder=tmp_path)
    refused(dinotile, "exclude each other", photo, "-o", out, "--overwrite", "--skip-existing", folder=tmp_path)
    config = Path(models[1], "vae", "config.json")
    words = "config.json is a part of an input"
    refused(dinotile, words, photo, "-o", out, *models, "--report", config, "--overwrite", folder=tmp_path)
    assert not loaded and out.read_bytes() == b"of somebody else" == report.read_text().encode()
    refused(dinotile, "is there and no whole picture", photo, "-o", out, *models, "--skip-existing", folder=tmp_path)
    there = photo.read_bytes()
    out.write_bytes(there)
    code, said, _ = dinotile("upscale", photo, "-o", out, *models, "--skip-existing")
    assert code == 0 and "1 of 1 pictures are there already" in said and out.read_bytes() == there
    monkeypatch.undo()
    (tmp_path / "other.png").write_bytes(photo.read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.png").write_bytes(there)
    two = [photo, tmp_path / "other.png", "-o", f"{tmp_path}/folder/", *models]
    code, said, _ = dinotile("upscale", *two, "--skip-existing", "--steps", 1)
    assert code == 0 and "1 of 2 pictures are there already" in said
    assert (tmp_path / "folder" / "photo.png").read_bytes() == there
    assert Image.open(tmp_path / "folder" / "other.png").size == (104, 80)
    assert dinotile("upscale", photo, "-o", out, *models, "--overwrite")[0] == 0
    assert Image.open(out).size == (104, 80)


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


def test_home_is_expanded_for_dino_and_adapter(dinotile, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.safetensors").write_text("no model")
    out = ["-o", tmp_path / "out.png", "--adapter", "~/text.safetensors"]
    refused(dinotile, "text.safetensors starts with", photo, *out, folder=tmp_path)
    refused(dinotile, "text.safetensors starts with", photo, *out, "--dino", "~/text.safetensors", folder=tmp_path)
