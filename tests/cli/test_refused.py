"""What ``dinotile upscale`` refuses, and what it leaves behind where something fails."""

import os
import select
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from ..limits import largest_file
from ..tiny import overflowing, tiny_vae
from .refused import photo as photo
from .refused import refused

LIMIT = 200  # seconds


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
        (f"/out cannot be made ({photo} is a file)", "-o", f"{photo}/out/"),
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


def test_home_is_expanded_for_dino_and_adapter(dinotile, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.safetensors").write_text("no model")
    out = ["-o", tmp_path / "out.png", "--adapter", "~/text.safetensors"]
    refused(dinotile, "text.safetensors starts with", photo, *out, folder=tmp_path)
    refused(dinotile, "text.safetensors starts with", photo, *out, "--dino", "~/text.safetensors", folder=tmp_path)
