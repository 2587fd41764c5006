"""Tiles that are kept: what is used of them, what is done again, and what a kill leaves."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.tiling import kills
from dinotile.files.fingerprints import heads_fingerprint
from dinotile.tiling.store import TileStore
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.prints import PARTS
from dinotile.upscaling.redo import chosen_tiles
from dinotile.upscaling.rows import Pixels
from dinotile.upscaling.tile import Tiles
from dinotile.upscaling.upscaler import Upscaler

from ..limits import read_only
from ..tiny import picture, tiny_flux, tiny_vae
from .in_order import PLAN, SETTINGS, SIZE, run

RESULT = (PLAN.height, PLAN.width)  # px


@pytest.fixture(scope="module")
def upscaler(flux, vae):
    return Upscaler(flux, vae)


def test_kept_tiles_are_used_and_a_change_of_anything_uses_none(upscaler, flux, tmp_path):
    store, pixels = partial(TileStore, tmp_path / "store"), picture(*SIZE)
    first, report = run(upscaler, pixels, open_store=store)
    assert report["kept"] == {"reused": [], "redone": [], "sampled": 6, "damaged": []}
    again, report = run(upscaler, pixels, open_store=store)
    assert sorted(report["kept"]["reused"]) == [1, 2, 3, 4, 5, 6] and report["kept"]["sampled"] == 0
    assert torch.equal(first, again)
    changed = pixels.clone()
    changed[..., -1, -1] += 1 / 255
    swapped = Upscaler(tiny_flux(seed=9), tiny_vae())
    for other in (
        (upscaler, changed, SETTINGS),
        (upscaler, pixels, dataclasses.replace(SETTINGS, seed=1)),
        (upscaler, pixels, dataclasses.replace(SETTINGS, overlap=32)),
        (swapped, pixels, SETTINGS),
    ):
        _, report = run(*other, open_store=store)
        assert report["kept"]["reused"] == [] and report["kept"]["sampled"] >= 6


def test_models_stay_in_the_order_that_the_jobs_of_stores_are_known_by():
    upscaler = load_upscaler("demo", device="cpu")
    parts = [upscaler.models[name] for name in PARTS]
    made_of = [None if part is None else heads_fingerprint(part.state_dict()) for part in parts]
    assert upscaler.prints.made_of == made_of and " ".join(PARTS) == (
        "flux vae decoder controlnet upscale_model adapter dino redux"
    )


def test_a_damaged_tile_is_done_again_and_the_picture_is_the_same(upscaler, tmp_path):
    store, pixels = partial(TileStore, tmp_path / "store"), picture(*SIZE)
    first, _ = run(upscaler, pixels, open_store=store)
    (path,) = (tmp_path / "store").glob("*/4.tile")
    path.write_bytes(path.read_bytes()[:-7])
    again, report = run(upscaler, pixels, open_store=store)
    assert report["kept"]["damaged"] == [5] and report["kept"]["sampled"] == 1 and torch.equal(first, again)


def test_a_tile_that_is_asked_for_alone_brings_those_that_it_sees_and_that_are_gone(upscaler, tmp_path):
    store, pixels = partial(TileStore, tmp_path / "store"), picture(*SIZE)
    run(upscaler, pixels, open_store=store)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "store").glob("*/*.tile")}
    (folder,) = (tmp_path / "store").glob("*/")
    for gone, asked, made in (([0, 1, 4], [4], 3), ([0, 2, 5], [2, 5], 2), ([], [3], 0), ([3], [3, 3], 1)):
        for number in gone:
            (folder / f"{number}.tile").unlink()
        report = upscaler.upscale_tiles(Pixels(pixels), SETTINGS, write=pytest.fail, open_store=store, only=asked)
        left = {number for number in gone if not (folder / f"{number}.tile").exists()}
        assert report["kept"]["sampled"] == made == len(gone) - len(left) and not set(asked) & left
        for number in left:
            (folder / f"{number}.tile").write_bytes(expected[f"{number}.tile"])
        assert {path.name: path.read_bytes() for path in folder.glob("*.tile")} == expected
    with pytest.raises(ValueError, match="tile 7 is outside of the plan, which has tiles 1 to 6"):
        upscaler.upscale_tiles(Pixels(pixels), SETTINGS, write=pytest.fail, open_store=store, only=[6])


def test_tiles_are_redone_with_other_noise_and_the_rest_stays(upscaler, tmp_path):
    store, pixels = partial(TileStore, tmp_path / "store"), picture(*SIZE)
    first, _ = run(upscaler, pixels, open_store=store)
    second, report = run(upscaler, pixels, open_store=store, redo=partial(chosen_tiles, "1", size=RESULT))
    assert report["kept"]["redone"] == [1] and report["kept"]["sampled"] == 0
    assert torch.equal(first[..., 64:, :], second[..., 64:, :]) and torch.equal(first[..., 64:], second[..., 64:])
    assert (first - second)[..., :40, :40].abs().mean() > 0.001
    third, report = run(upscaler, pixels, open_store=store)
    assert len(report["kept"]["reused"]) == 6 and torch.equal(second, third)  # what was redone is what is kept
    fourth, _ = run(upscaler, pixels, open_store=store, redo=partial(chosen_tiles, "1", size=RESULT))
    assert not torch.equal(third, fourth)


def test_where_tiles_are_redone_each_is_counted_once_and_what_is_told_grows_to_its_total(
    upscaler, tmp_path, monkeypatch
):
    store, pixels, told = partial(TileStore, tmp_path / "store"), picture(*SIZE), []
    make, seen_by = Tiles.make, []

    def watched(self, tile, mosaic, *, sees, turn=0):
        seen_by.append((tile, sees, turn))
        return make(self, tile, mosaic, sees=sees, turn=turn)

    run(upscaler, pixels, open_store=store)
    for number in (1, 4):
        next((tmp_path / "store").glob(f"*/{number}.tile")).unlink()
    monkeypatch.setattr(Tiles, "make", watched)
    asked = {
        "open_store": store,
        "redo": partial(chosen_tiles, "5,1", size=RESULT),
        "progress": lambda *line: told.append(line),
    }
    _, report = run(upscaler, pixels, **asked)
    assert report["kept"] == {"reused": [1, 3, 4, 6], "redone": [1, 5], "sampled": 2, "damaged": []}
    assert seen_by == [(1, [0, 2], 0), (4, [0, 1, 2, 3, 5], 0), (0, [1, 3, 4], 1), (4, [0, 1, 2, 3, 5], 1)]
    told = [line for line in told if line[0] == "sample"]
    shares = [line[1] for line in told]
    assert {line[2] for line in told} == {8} and shares == sorted(shares) and shares[-1] == 8
    assert {line[3] for line in told} >= {"tile 6 of 6", "tile 1 again", "tile 5 again"}


def test_a_store_that_may_only_be_read_gives_the_picture_where_all_is_finished_and_else_says_so(upscaler, monkeypatch):
    pixels = picture(*SIZE)
    with tempfile.TemporaryDirectory() as place:  # which everybody may enter, as no folder of pytest's
        Path(place).chmod(0o755)
        store = partial(TileStore, Path(place, "store"))
        first, _ = run(upscaler, pixels, open_store=store)
        with monkeypatch.context() as patch, read_only(Path(place, "store")):
            patch.setattr(Tiles, "make", pytest.fail)
            again, report = run(upscaler, pixels, open_store=store)
            assert torch.equal(first, again) and report["kept"]["sampled"] == 0
            with pytest.raises(ValueError, match="no tile of store .* can be done again, as it cannot be written"):
                run(upscaler, pixels, open_store=store, redo=partial(chosen_tiles, "1", size=RESULT))
        next(Path(place).glob("store/*/4.tile")).unlink()
        with monkeypatch.context() as patch, read_only(Path(place, "store")):
            patch.setattr(Tiles, "make", pytest.fail)
            with pytest.raises(ValueError, match="tile 5 is not finished in store .*: name another folder") as said:
                run(upscaler, pixels, open_store=store)
        assert "\n" not in str(said.value)


def test_runs_that_are_killed_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    path = tmp_path / "kills.json"
    command = [
        sys.executable,
        "-m",
        "dinotile.benchmarks.tiling.kills",
        "--tiles",
        "2",
        "--kills",
        "2",
        "--json",
        str(path),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(kills.__file__).parents[2])
    found = json.loads(path.read_text())["figures"]
    assert found["identical"] and found["kills"] >= 1 and found["damaged"] == 0
    assert found["repeated"] <= found["kills"] and found["tiles_begun"] == found["tiles"] + found["repeated"]


@pytest.mark.parametrize(
    "text,numbers",
    [
        ("1", [0]),
        (",".join(["3"] * 300), [2]),
        ("6, 2", [1, 5]),
        ("10x10+0+0", [0]),
        ("160x1+0+0", [0, 1, 2]),
        ("20x20+50+50", [0, 1, 3, 4]),
    ],
)
def test_tiles_to_redo_are_named_by_number_and_box(text, numbers):
    assert chosen_tiles(text, PLAN, size=RESULT) == numbers


def test_tiles_to_redo_are_painted(tmp_path):
    mask = np.zeros((56, 80), np.uint8)
    mask[40:50, 60:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert chosen_tiles(str(tmp_path / "mask.png"), PLAN, size=RESULT) == [5]
    Image.fromarray(mask * 0).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="means no tile of the 6 there are"):
        chosen_tiles(str(tmp_path / "mask.png"), PLAN, size=RESULT)


def test_a_result_that_ends_before_the_canvas_is_what_a_mask_and_a_box_are_measured_by(tmp_path):
    size = PLAN.height - 9, PLAN.width - 10
    Image.new("L", size[::-1], 255).save(tmp_path / "mask.png")
    assert chosen_tiles(str(tmp_path / "mask.png"), PLAN, size=size) == list(range(PLAN.count))
    with pytest.raises(ValueError, match=f"outside of the result, {size[1]} x {size[0]} px"):
        chosen_tiles(f"5x5+{size[1]}+0", PLAN, size=size)


@pytest.mark.parametrize(
    "text,said",
    [
        ("0", "outside of the plan, which has tiles 1 to 6"),
        ("7", "outside of the plan"),
        ("5x5+160+0", "outside of the result"),
        ("0x5+1+0", "outside of the result"),
        ("tile", "is no tile and no file"),
        ("1,,2", "is no tile and no file"),
    ],
)
def test_what_is_no_tile_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        chosen_tiles(text, PLAN, size=RESULT)
