"""Memory that ends, by torch's own error from a hook on real tiny models, at every stage of a picture."""

import dataclasses
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from dinotile.cli import one
from dinotile.cli.app import app
from dinotile.cli.batch import Batch
from dinotile.cli.manifest import named
from dinotile.files.pictures import Picture, load_picture, save_picture
from dinotile.files.sources import open_picture
from dinotile.hosts.diffusers.texts import Texts
from dinotile.hosts.host import Text
from dinotile.tiling.plan import plan_tiles, smaller_tiles
from dinotile.upscaling.large import upscale_file
from dinotile.upscaling.masks import EVERYWHERE
from dinotile.upscaling.recipe import check_memory, recipe, recipe_of, source_of
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_adapter, tiny_flux, tiny_kl, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=2, denoise=0.5)


class Full:
    """A module that runs out of memory where ``too_much`` says so of what it is given; counts what it did otherwise."""

    def __init__(self, module, too_much):
        self.done, self.failed, self.too_much = [], 0, too_much
        self.hook = module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        given = kwargs.get("hidden_states", args[0] if args else None)
        if self.too_much(given):
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.done.append(given.shape)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler(tiny_flux(), tiny_vae())


def told(report):
    return [(each["stage"], each["goes_on_with"]) for each in report["out_of_memory"]]


def test_fewer_tiles_share_a_call_and_what_was_done_is_not_done_again(upscaler, caplog):
    pixels = picture(60, 75)
    settings = dataclasses.replace(SETTINGS, tile_batch=4)
    usual, report = upscaler.upscale(pixels, settings)
    assert report["out_of_memory"] == [] and report["tiles"]["count"] == 6
    calls = iter(range(1000))
    with Full(upscaler.host.transformer, lambda x: next(calls) >= 1 and len(x) > 1) as flux:
        result, report = upscaler.upscale(pixels, settings)
    assert [shape[0] for shape in flux.done] == [4, 1, 1, *[1] * 6] and flux.failed == 1
    assert told(report) == [("sample", "1 tile at a time")] and report["tiles"]["batch"] == 4
    assert "sample ran out of memory and goes on with 1 tile at a time" in caplog.text
    assert (result - usual).abs().max() < 1e-5
    with Full(upscaler.host.transformer, lambda x: False) as flux:
        _, report = upscaler.upscale(pixels, settings)
    assert [shape[0] for shape in flux.done] == [4, 2] * 2 and report["out_of_memory"] == []


def test_tiles_shrink_only_where_one_alone_is_too_much_and_the_canvas_of_the_last_step_stays(upscaler):
    settings = dataclasses.replace(SETTINGS, tile=256, steps=3)
    pixels, seen = picture(200, 240), []
    plan = plan_tiles(400, 480, tile=256, overlap=16, grid=16, cell=8)
    smaller = smaller_tiles(plan)
    assert plan.count == 4 and smaller.tile_height <= 192 and smaller.tile_width <= 192
    tokens = plan.tile_height * plan.tile_width // 256

    def too_much(x):
        seen.append(x.shape[:2])
        return len(seen) > 2 and x.shape[1] == tokens  # after the first step and a half, of two tiles a call

    lines = []
    settings = dataclasses.replace(settings, tile_batch=2)
    with Full(upscaler.host.transformer, too_much) as flux:
        result, report = upscaler.upscale(pixels, settings, progress=lambda *line: lines.append(line))
    assert [shape[:2] for shape in flux.done[:2]] == [(2, tokens)] * 2  # the first step, which is not repeated
    assert len(flux.done[2:]) == 2 * smaller.count and flux.failed == 2
    assert told(report) == [
        ("sample", "1 tile at a time"),
        ("sample", f"tiles of {smaller.tile_width} x {smaller.tile_height} px"),
    ]
    assert report["tiles"]["count"] == smaller.count and report["tiles"]["height"] == smaller.tile_height
    assert report["settings"]["tile"] == 256 and report["steps"] == 3
    assert result.isfinite().all() and result.shape == (1, 3, 400, 480)
    assert [line for line in lines if line[0] == "sample"][-1][1:3] == (3 * smaller.count, 3 * smaller.count)


def test_where_no_tile_is_small_enough_the_error_of_torch_goes_on(upscaler):
    with Full(upscaler.host.transformer, lambda x: True), pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        upscaler.upscale(picture(60, 75), SETTINGS)


@pytest.mark.parametrize("make", [tiny_vae, tiny_kl])
def test_the_vae_codes_the_same_in_lower_strips(make):
    upscaler, pixels = Upscaler(tiny_flux(), make()), picture(60, 75)
    settings = dataclasses.replace(SETTINGS, steps=1, vae_detail=0.5, anchor=0.5)
    usual, _ = upscaler.upscale(pixels, settings)
    vae, halves = upscaler.host.vae, []
    for half in (vae.encoder, vae.decoder):
        convolutions = [module for module in half.modules() if isinstance(module, torch.nn.Conv2d)]
        largest = convolutions[0] if half is vae.encoder else convolutions[-1]
        halves.append(Full(largest, lambda x: x.shape[-2:].numel() > 12000))
    result, report = upscaler.upscale(pixels, settings)
    assert {stage for stage, _ in told(report)} == {"encode", "decode"}
    assert {said for _, said in told(report)} == {"lower strips"}
    assert all(half.failed for half in halves)
    assert (result - usual).abs().max() < 1e-4


def made():
    """On the CPU under another name, so that there is a place to go to."""
    flux = tiny_flux()
    given = {"dino": tiny_encoder("tiny-v2"), "adapter": tiny_adapter(flux)}
    return Upscaler(flux, tiny_vae(), **given, device=torch.device("cpu", 0))


@pytest.mark.parametrize("stage", ["dino", "encode", "sample", "decode"])
def test_a_model_gets_the_device_for_itself_until_the_picture_is_done(stage):
    upscaler, other = made(), made()
    turns, vae = upscaler.host.turns, upscaler.host.vae
    settings = dataclasses.replace(SETTINGS, tile_batch=1)
    usual, _ = other.upscale(picture(40, 52), settings)
    module = {
        "dino": next(each for each in upscaler.dino.model.modules() if not list(each.children())),
        "encode": next(each for each in vae.encoder.modules() if isinstance(each, torch.nn.Conv2d)),
        "sample": upscaler.host.transformer,
        "decode": next(each for each in vae.decoder.modules() if isinstance(each, torch.nn.Conv2d)),
    }[stage]
    with Full(module, lambda x: turns.offload == "none") as full:
        result, report = upscaler.upscale(picture(40, 52), settings)
    assert full.failed and full.done and told(report)[-1] == (stage, "one model at a time on the device")
    assert turns.offload == "none" and turns.there == ()
    assert (result - usual).abs().max() < 1e-5


def test_the_report_of_a_picture_says_where_memory_ended_for_its_prompt(tmp_path):
    upscaler, settings = made(), dataclasses.replace(SETTINGS, steps=1, mode="joint")
    turns, text = upscaler.host.turns, Text.empty(upscaler.host.geometry)

    def encode(prompt):
        if turns.offload == "none":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return text

    upscaler.texts = Texts(["a fox", "a cat"], lambda: encode, room=1)
    batch = Batch([(tmp_path / f"{name}.png", tmp_path / f"{name}-out.png") for name in "abc"], recipe=False)
    for (source, output), mode, prompt in zip(
        batch.jobs, ("joint", "sequential", "joint"), ({"prompt": "a fox"}, {"prompt": "a cat"}, {}), strict=True
    ):
        save_picture(Picture(picture(20, 26)), source)
        batch.own[named(source)] = prompt
        fitted = dataclasses.replace(settings, mode=mode)
        said = {"settings": fitted, "masks": EVERYWHERE, "progress": lambda *_: None}
        assert (
            "text with one model" in "".join(one.upscale_file(batch, upscaler, source, output, {}, **said))
            or not prompt
        )
    assert [told(report) for report in batch.done] == [[("text", "one model at a time on the device")]] * 2 + [[]]


ONE_BY_ONE = UpscaleSettings(tile=192, overlap=16, steps=2, denoise=0.5, tile_fit="exact", mode="sequential")
TOKENS = 144  # of one of its two tiles


def drawn(upscaler, output, photo, settings=ONE_BY_ONE, **more):
    """What a file says of where memory ended, after a run from file to file."""
    made_from = source_of(photo)
    said = partial(recipe, source=made_from, options={"no_dino": True}, report=upscaler.identity())
    report = upscale_file(upscaler, open_picture(photo), output, settings, recipe=said, **more)
    return recipe_of(output).get("out_of_memory", []), report


@pytest.fixture
def photo(tmp_path):
    save_picture(Picture(picture(96, 170)), tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_a_file_of_tiles_says_at_its_end_where_memory_ended_and_is_not_made_again(upscaler, photo, tmp_path, ending):
    outputs = [tmp_path / f"{name}.{ending}" for name in "abc"]
    assert drawn(upscaler, outputs[0], photo)[0] == []
    calls, shrunk = iter(range(1000)), [{"stage": "sample", "goes_on_with": "tiles of 144 x 144 px"}]
    with Full(
        upscaler.host.transformer, lambda x: next(calls) >= 3 and x.shape[1] == TOKENS
    ) as flux:  # within the last
        said, report = drawn(upscaler, outputs[1], photo, store=tmp_path / "tiles")
    assert flux.failed == 1 and said == report["out_of_memory"] == shrunk
    said, report = drawn(upscaler, outputs[2], photo, store=tmp_path / "tiles")  # in another run, where memory sufficed
    assert report["kept"]["sampled"] == 0 and report["out_of_memory"] == [] and said == shrunk
    results = [load_picture(output).pixels for output in outputs]
    assert not torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
    done = CliRunner().invoke(app, ["again", str(outputs[2]), "-o", str(tmp_path / f"new.{ending}")])
    assert str(done.exception).startswith(f"memory ended when {outputs[2]} was made, which went on with tiles of ")
    assert not (tmp_path / f"new.{ending}").exists()


def test_what_is_met_without_smaller_tiles_draws_the_same_one_tile_after_the_other(tmp_path):
    save_picture(Picture(picture(30, 40)), photo := tmp_path / "photo.png")
    small, alone, settings = (
        Upscaler(tiny_flux(), tiny_vae()),
        made(),
        dataclasses.replace(ONE_BY_ONE, tile=64, steps=1),
    )
    convolution = [module for module in small.host.vae.decoder.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    for name, upscaler, module, too_much in (
        ("lower strips", small, convolution, lambda x: x.shape[-2:].numel() > 3000),
        ("one model at a time", alone, alone.host.transformer, lambda x: alone.host.turns.offload == "none"),
    ):
        usual, _ = drawn(upscaler, tmp_path / "usual.png", photo, settings)
        with Full(module, too_much) as full:
            said, _ = drawn(upscaler, tmp_path / "out.png", photo, settings)
        assert full.failed and usual == [] and [each["goes_on_with"].startswith(name) for each in said] == [True]
        apart = load_picture(tmp_path / "out.png").pixels - load_picture(tmp_path / "usual.png").pixels
        assert apart.abs().max() * 255 < 1.01  # a level, where it was rounded
        check_memory(recipe_of(tmp_path / "out.png"), tmp_path / "out.png")


def test_a_tile_that_is_done_again_with_enough_memory_says_what_its_neighbours_saw(upscaler, photo, tmp_path):
    with Full(upscaler.host.transformer, lambda x: x.shape[1] == TOKENS):
        first, _ = drawn(upscaler, tmp_path / "a.png", photo, store=tmp_path / "tiles")
    said, report = drawn(upscaler, tmp_path / "b.png", photo, store=tmp_path / "tiles", redo="1,2")
    assert report["kept"]["redone"] == [1, 2] and report["out_of_memory"] == [] and said == first != []


def test_a_tile_that_is_lost_and_made_whole_leaves_its_shortage_with_the_neighbour_that_saw_it(
    upscaler, photo, tmp_path
):
    calls = iter(range(1000))
    with Full(upscaler.host.transformer, lambda x: next(calls) < 1 and x.shape[1] == TOKENS) as flux:
        first, _ = drawn(upscaler, tmp_path / "a.png", photo, store=tmp_path / "tiles")
    assert flux.failed == 1 and first == [{"stage": "sample", "goes_on_with": "tiles of 144 x 144 px"}]
    for tile, expected in ((0, first), (1, [])):  # until neither is of that run
        next((tmp_path / "tiles").glob(f"*/{tile}.tile")).unlink()
        said, report = drawn(upscaler, tmp_path / "b.png", photo, store=tmp_path / "tiles")
        assert report["kept"]["sampled"] == 1 and report["out_of_memory"] == [] and said == expected
