"""Tiles one after the other: their order, what they see, and the picture that they make."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile.files.pictures import load_picture
from dinotile.files.pixels import resize
from dinotile.tiling.canvas import cut
from dinotile.tiling.noise import placed_noise
from dinotile.tiling.order import order, seen
from dinotile.tiling.plan import plan_tiles
from dinotile.tiling.seams import measure_seams
from dinotile.tiling.store import TileStore
from dinotile.upscaling import joint, mode, pipeline, sequential
from dinotile.upscaling.identity import settings_fingerprint
from dinotile.upscaling.mode import mode_for
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.tile import Tiles
from dinotile.upscaling.upscaler import Upscaler

from ..tiny import picture
from .in_order import PLAN, SETTINGS, SIZE, run


@pytest.fixture(scope="module")
def upscaler(flux, vae):
    return Upscaler(flux, vae)


@pytest.mark.parametrize(
    "size,scale,expected", [((33, 47), 2, (66, 94)), ((1, 1), 2, (2, 2)), ((50, 70), 1.5, (75, 105))]
)
def test_the_size_is_exact(upscaler, size, scale, expected):
    result, report = run(upscaler, picture(*size), dataclasses.replace(SETTINGS, scale=scale))
    assert result.shape == (1, 3, *expected) and 0 <= result.min() and result.max() <= 1
    assert report["output"] == {"height": expected[0], "width": expected[1]}
    assert report["settings"]["mode"] == "sequential"


def test_nothing_denoised_is_what_joint_mode_gives(upscaler):
    settings = dataclasses.replace(SETTINGS, denoise=0.0, vae_detail=1.0, fidelity=1.0)
    joint, _ = upscaler.upscale(picture(*SIZE), dataclasses.replace(settings, mode="joint"))
    result, _ = run(upscaler, picture(*SIZE), settings)
    assert (result - joint).abs().max() < 2e-3


@pytest.mark.parametrize("way,size", [("off", (32, 32)), ("wavelet", (9, 27)), ("adain_tiles", (9, 27))])
@pytest.mark.parametrize("anchor", [0, 0.7])
def test_a_picture_of_one_tile_is_that_of_joint_mode_with_noise_by_place(upscaler, way, size, anchor):
    pixels = picture(*size)  # which fills its tile, or not
    settings = dataclasses.replace(SETTINGS, fidelity=0.5, vae_detail=0.5, color_match=way, anchor=anchor)
    joint = dataclasses.replace(settings, mode="joint")
    usual, _ = upscaler.upscale(pixels, joint)
    placed, report = upscaler.upscale(pixels, dataclasses.replace(joint, noise="place"))
    result, tiles = run(upscaler, pixels, settings)
    level = 0.5 / 65535  # to which finished tiles are rounded
    assert (result - placed).abs().max() < level + 1e-6 < 0.01 < (result - usual).abs().max()
    assert report["settings"]["noise"] == tiles["settings"]["noise"] == "place"


def test_each_tile_of_joint_mode_starts_with_its_own_noise_by_place_also_when_it_is_tried_again(upscaler, monkeypatch):
    seen, sample = [], joint.sample
    monkeypatch.setattr(joint, "sample", lambda *args, **more: seen.append(more["noise"]) or sample(*args, **more))
    settings = dataclasses.replace(SETTINGS, mode="joint", noise="place", seed=5)
    sampler = joint.JointEuler(upscaler.host, upscaler.text, settings)

    def twice(result, *, again, **more):
        return again(torch.ones(1, 1, 14, 20)), {}

    monkeypatch.setattr(pipeline, "check", twice)
    pipeline.upscale(upscaler.host, picture(*SIZE).repeat(2, 1, 1, 1), settings, sampler=sampler, gentler=sampler)
    for noise in seen:
        for box in PLAN.latent.boxes:
            own = placed_noise(box, channels=16, seed=5)
            assert torch.equal(cut(noise[0], box), own) and torch.equal(cut(noise[1], box), own)
    assert len(seen) == 2


def test_noise_by_place_changes_no_job_of_one_tile_after_the_other(upscaler, tmp_path):
    pixels, names = picture(*SIZE), []
    placed = dataclasses.replace(SETTINGS, noise="place")

    def opened(job):
        names.append(job)
        return TileStore(tmp_path, job)

    usual, _ = run(upscaler, pixels, open_store=opened)
    same, report = run(upscaler, pixels, placed, open_store=opened)
    assert torch.equal(usual, same) and names[0] == names[1] and report["kept"]["sampled"] == 0
    for how, more, equal in (
        ("joint", {}, False),
        ("sequential", {}, True),
        ("auto", {}, False),
        ("auto", {"kept": True}, True),  # with a store it is sequential
    ):
        plain, chosen = (settings_fingerprint({"noise": noise, "mode": how}, **more) for noise in ("canvas", "place"))
        assert (plain == chosen) is equal
    with pytest.raises(ValueError, match="noise 'tile' must be canvas or place: write one of them"):
        UpscaleSettings(noise="tile")


def test_the_result_is_the_same_whoever_asks_for_it_and_another_seeds_is_not(upscaler):
    pixels = picture(*SIZE)
    rows, _ = run(upscaler, pixels)
    whole, _ = upscaler.upscale(pixels, SETTINGS)
    other, _ = run(upscaler, pixels, dataclasses.replace(SETTINGS, seed=1))
    assert torch.equal(rows, whole) and not torch.equal(rows, other)


def test_any_order_that_lets_tiles_see_the_same_gives_the_same_picture(upscaler, tmp_path, monkeypatch):
    pixels, expected = picture(*SIZE), run(upscaler, picture(*SIZE))[0]

    def backwards(plan):
        left, given = sorted(order(plan), reverse=True), []
        while left:
            given.append(next(tile for tile in left if set(seen(plan, tile)) <= set(given)))
            left.remove(given[-1])
        return given

    store = partial(TileStore, tmp_path / "store")
    monkeypatch.setattr(sequential, "order", backwards)
    monkeypatch.setattr(sequential, "whole_after", lambda plan: [0] * (plan.count - 1) + [plan.height])
    result, report = run(upscaler, pixels, open_store=store)
    assert report["kept"]["sampled"] == 6 and torch.equal(result, expected)


def test_neighbours_meet_better_than_tiles_that_see_none(upscaler, monkeypatch):
    settings, pixels = dataclasses.replace(SETTINGS, steps=2, vae_detail=1), picture(*SIZE)
    plan = plan_tiles(112, 160, tile=64, overlap=16, grid=16, cell=8, fit="exact")

    def between(tiles):
        """Mean difference of what two neighbours have of the same place."""
        first, second = (tiles[number] for number in (0, 1))
        shared = plan.boxes[0].right - plan.boxes[1].left
        return float((first[..., -shared : -shared + 4] - second[..., :4]).abs().mean())

    def tiles_of(sees):
        made = {}
        monkeypatch.setattr(sequential, "seen", sees)
        make = Tiles.make

        def kept(self, tile, mosaic, **more):
            assert tile not in made
            made[tile] = make(self, tile, mosaic, **more)
            return made[tile]

        with monkeypatch.context() as patch:
            patch.setattr(Tiles, "make", kept)
            run(upscaler, pixels, settings)
        return made

    assert 2 * between(tiles_of(seen)) < between(tiles_of(lambda plan, tile: []))


@pytest.mark.parametrize("name", [*sequential.JOINT_ONLY, "color_match"])
def test_what_needs_the_whole_canvas_is_refused_and_keeps_auto_joint(upscaler, name, monkeypatch):
    value = {"moving": True, "color_match": "adain"}.get(name, 0.5)
    settings = dataclasses.replace(SETTINGS, **{name: value})
    with pytest.raises(ValueError, match=f"{name} .*: set {name} to (0|adain_tiles), or mode to joint"):
        run(upscaler, picture(*SIZE), settings)
    monkeypatch.setattr(mode, "available_memory", lambda: 0)
    assert mode_for(dataclasses.replace(settings, mode="auto"), height=100, width=100) == "joint"


def test_auto_is_joint_where_the_canvas_fits(monkeypatch):
    settings = UpscaleSettings(scale=2)
    monkeypatch.setattr(mode, "available_memory", lambda: 2**30)
    assert mode_for(settings, height=1000, width=1000) == "joint"  # 4 megapixels take 0.3 GiB
    assert mode_for(settings, height=2000, width=2000) == "sequential"
    assert mode_for(settings, height=2000, width=2000, whole=True) == "joint"
    assert mode_for(settings, height=10, width=10, kept=True) == "sequential"
    assert mode_for(dataclasses.replace(settings, mode="joint"), height=2000, width=2000) == "joint"


def test_the_seams_of_what_is_drawn_are_no_worse_than_joint_modes(upscaler):
    pixels, settings = picture(*SIZE), dataclasses.replace(SETTINGS, steps=3, vae_detail=1)
    plain = resize(pixels, height=112, width=160)
    joint, _ = upscaler.upscale(pixels, dataclasses.replace(settings, mode="joint"))
    result, _ = run(upscaler, pixels, settings)
    scores = [measure_seams(each, PLAN, source=plain).summary()["score"] for each in (joint, result)]
    assert scores[1] < scores[0] + 0.05


def test_the_command_writes_the_same_pixels_as_png_and_tiff_and_says_the_mode(dinotile, models, tmp_path):
    source = tmp_path / "in.png"
    values = np.random.default_rng(0).integers(0, 255, (12, 16, 4), dtype=np.uint8)
    Image.fromarray(values).resize((80, 56)).save(source)
    common = ["upscale", source, *models, "--mode", "sequential"]
    code, out, err = dinotile(*common, "-o", tmp_path / "a.png")
    assert code == 0 and "one after the other" in out, err
    dinotile(*common, "-o", tmp_path / "b.tif")
    code, out, _ = dinotile(*common[:-2], "-o", tmp_path / "c.png", "--store", tmp_path / "store")
    _, out, _ = dinotile(
        *common[:-2], "-o", tmp_path / "b.jpg", "--mode", "sequential", "--report", tmp_path / "r.json"
    )
    said = "b.jpg: JPEG has no transparency, so the picture was put on white; write a .png to keep it"
    assert out.endswith(f"\n{said}\n") and json.loads((tmp_path / "r.json").read_text())["pictures"][0]["note"] == said
    first, second, third = (load_picture(tmp_path / name) for name in ("a.png", "b.tif", "c.png"))
    assert first.alpha is not None and torch.equal(first.alpha, second.alpha)
    assert torch.equal(first.pixels, second.pixels) and torch.equal(first.pixels, third.pixels)
    code, out, _ = dinotile(*common[:-2], "-o", tmp_path / "d.png", "--store", tmp_path / "store", "--redo", "1")
    assert code == 0 and "from the store, 1 done again" in out
    for options, said in (
        (["--redo", "1"], "name one with --store"),
        (["--mode", "sequential", "--store-size", "1"], "--store-size bounds a store, and none was named"),
        (["--redo", "1", "--store", tmp_path / "store", "--manifest", tmp_path / "m"], "which --manifest leaves out"),
        (["--redo", "1", "--store", tmp_path / "store", "--skip-existing"], "which --skip-existing leaves out"),
        (
            ["--store", tmp_path / "store", "--redo", "99", "--dry-run"],
            "which has tiles 1 to 6: give one of",
        ),
        (["--ray", "local", "--store", tmp_path / "store", "--mode", "joint"], "leave out --store or --mode joint"),
        (["--ray", "local", "--mode", "sequential", "--compare"], "--compare needs the whole result"),
        (["--store", tmp_path / "store", "--redo", "99"], "outside of the plan"),
        (["--store", tmp_path / "store", "--mode", "joint"], "leave out --store or --mode joint"),
        (["--mode", "sequential", "--moving"], "moving True shifts all tiles in every step"),
        (["--mode", "sequential", "--compare"], "--compare needs the whole result"),
        (["--mode", "both"], "mode 'both' must be auto or joint or sequential"),
        (["--store", tmp_path / "store", "--store-size", "0", "--dry-run"], "store size 0 must be above 0"),
        (["--store", tmp_path, "--dry-run"], "holds other files, and no finished tiles"),
        (["--store", source, "--dry-run"], "cannot be read (Not a directory)"),
    ):
        code, _, err = dinotile("upscale", source, *models, "-o", tmp_path / "e.png", *options)
        assert code == 2 and said in err and not (tmp_path / "e.png").exists()
