"""Pixels out of latents: a decoder that learns, a discriminator that moves only what it should, and the commands."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile import demo
from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.dit import DitConfig, new_dit
from dinotile.dino.compress.features import settings_for
from dinotile.dino.compress.flow import sample
from dinotile.dino.compress.generator import Generator, save_generator
from dinotile.dino.compress.model import new_flat
from dinotile.dino.compress.pixels import load_pixels, save_pixels
from dinotile.dino.compress.statistics import Statistics
from dinotile.dino.load import load_dino
from dinotile.training.core.config import OptimisationSettings, OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.core.monitor import read_log
from dinotile.training.core.perceptual import DinoMaps, distance, units
from dinotile.training.core.random import generator_for
from dinotile.training.core.trainer import Trainer
from dinotile.training.flatdino.discriminator import CUT, DRAWS, SHIFT, Discriminator, augmented
from dinotile.training.flatdino.fidelity import ClassToken, made_up, pixel_score
from dinotile.training.flatdino.name import parse
from dinotile.training.flatdino.patches import EncodedPatches
from dinotile.training.flatdino.pixels import PixelTask

from ...near import assert_near
from ..adapter.vgg import write_vgg
from ..tiny import largest_difference, weights

CPU = torch.device("cpu")
GRID = 4  # patches of a side


@pytest.fixture(scope="module")
def encoder():
    made = load_dino(demo.DINO)
    made.model.requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    path = tmp_path_factory.mktemp("flat") / "flat.safetensors"
    config = parse("fast-6-pp-16").config(dino="dinov2-demo", width=128, how="4", grid=(GRID, GRID))
    save_flat(new_flat(config), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two colours, one above the other."""
    place, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(12):
        colours = rng.integers(0, 256, (2, 1, 3)).astype(np.uint8)
        Image.fromarray(np.repeat(np.repeat(colours, 30, 0), 60, 1)).save(place / f"{number:02d}.png")
    return place


def task_of(flat, folder, encoder, tmp_path, *, gan_from=100, **changes):
    loaded = load_flat(flat)
    encode = settings_for(loaded.config, encoder.spec)
    data = EncodedPatches([folder], encoder, layers=encode.layers, side=encode.side)
    told = {"steps": 6, "batch": 4, "learning_rate": 3e-3, "warmup": 2, "ema": 0.5, **changes}
    nets = {"maps": DinoMaps(encoder), "seen": DinoMaps(encoder)}
    sizes = {"size": "p", "patch": 8, "gan_from": gan_from}
    settings = OptimisationSettings(**told)
    return PixelTask(loaded, data, settings, **sizes, **nets, path=tmp_path / "pixels.safetensors", device=CPU)


def gradients(parameters):
    return {name: parameter.grad.clone() for name, parameter in parameters.items()}


def test_a_decoder_learns_to_draw_what_it_has_not_seen(flat, folder, encoder, tmp_path):
    task = task_of(flat, folder, encoder, tmp_path, steps=40)
    before = task.validate()
    fit(Trainer(task, task.settings), OutputSettings(folder=str(tmp_path), tensorboard=False, validate_every=40))
    after = read_log(tmp_path)[-1]["validation"]
    assert after["l1"] < 0.7 * before["l1"] and after["psnr"] > before["psnr"] + 2


def test_the_discriminators_gradient_is_not_the_decoders_and_the_other_way_round(flat, folder, encoder, tmp_path):
    """What one learns by does not move the other, though both go through the same features."""
    task = task_of(flat, folder, encoder, tmp_path, gan_from=0)
    trainer = Trainer(task, task.settings)
    (row,) = task.rows([0], step=0, total=1)
    found = task.model(task.flat.module.decode(task.flat.module.encode(row.patches[None]))).float()
    moved = {}
    for place, name in enumerate(("gan", "discriminator")):
        for parameter in trainer.parameters.values():
            parameter.grad.zero_()
        task._judged([row], found, row.pixels[None])[place].sum().backward(retain_graph=True)
        moved[name] = {part for part, each in gradients(trainer.parameters).items() if bool(each.any())}
    assert {part.partition(".")[0] for part in moved["gan"]} == {"decoder"}
    assert {part.partition(".")[0] for part in moved["discriminator"]} == {"discriminator"}


def test_before_the_gan_begins_it_changes_nothing(flat, folder, encoder, tmp_path):
    with_gan, without = (task_of(flat, folder, encoder, tmp_path, gan_from=step) for step in (2, 100))
    runs = [Trainer(task, task.settings) for task in (with_gan, without)]
    told = [[run.step().measures for _ in range(3)] for run in runs]
    assert told[0][:2] == told[1][:2] and told[1][2]["discriminator"] == 0 < told[0][2]["discriminator"]
    assert 1.5 < told[0][2]["discriminator"] < 2.5  # the hinge of one who does not know yet


def test_the_gans_gradient_at_the_last_layer_is_as_large_as_the_others(flat, folder, encoder, tmp_path):
    task = task_of(flat, folder, encoder, tmp_path, gan_from=0)
    rows = task.rows([0, 1], step=0, total=2)
    true, patches = (torch.stack([getattr(row, name) for row in rows]) for name in ("pixels", "patches"))
    found = task.model(task.flat.module.decode(task.flat.module.encode(patches)))
    loss = (found - true).abs().mean((1, 2, 3))
    gan, _ = task._judged(rows, found, true)
    last, factor = task.model.head.weight, task._balance(loss, gan)
    sizes = [torch.autograd.grad(each.mean(), last, retain_graph=True)[0].norm() for each in (loss, factor * gan)]
    assert float(sizes[0]) == pytest.approx(float(sizes[1]), rel=1e-3) and float(factor) != pytest.approx(1, rel=0.1)


def test_an_interrupted_run_goes_on_exactly(flat, folder, encoder, tmp_path):
    whole, first, second = (
        Trainer(task, task.settings)
        for task in (task_of(flat, folder, encoder, tmp_path, gan_from=2) for _ in range(3))
    )
    output = OutputSettings(folder=str(tmp_path / "run"), tensorboard=False)
    fit(whole, OutputSettings(folder="", tensorboard=False))
    fit(first, output, should_stop=lambda: first.done == 3)
    fit(second, output)
    assert second.done == 6 and largest_difference(weights(second), weights(whole)) <= 1e-6


def test_augmentations_are_differentiable_and_do_what_they_say():
    pixels = torch.full((1, 3, 40, 40), 0.5, requires_grad=True)
    middle = torch.full((1, DRAWS), 0.5)
    middle[0, 5:] = 0  # the square that is cut out lies in the upper left
    same = augmented(pixels, middle)
    cut = round(CUT * 40)
    assert bool((same[..., :cut, :cut] == 0).all()) and bool((same[..., cut:, :] == 0.5).all())
    brighter, moved = middle.clone(), middle.clone()
    brighter[0, 0], moved[0, 3] = 1, 1
    assert float(augmented(pixels, brighter).detach()[0, 0, -1, 0]) == pytest.approx(0.7)
    assert bool((augmented(pixels, moved)[..., -round(SHIFT * 40) :, :] == 0).all())  # what comes in is black
    same.sum().backward()
    assert float(pixels.grad[0, 0, -1, 0]) != 0


def test_the_perceptual_distance_is_small_for_what_is_alike(encoder):
    maps = DinoMaps(encoder)
    true = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    near = (true + 0.02 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    wanted = units(maps, true)
    assert float(distance(units(maps, true), wanted).max()) == pytest.approx(0, abs=1e-6)
    far = distance(units(maps, true.flip(0)), wanted)
    assert bool((distance(units(maps, near), wanted) < far).all())
    assert Discriminator(maps, side=56)(true).shape == (2, 4 * 16)


def test_a_decoder_of_another_flatdino_and_other_files_are_refused(flat, folder, encoder, tmp_path):
    task = task_of(flat, folder, encoder, tmp_path)
    path = tmp_path / "pixels.safetensors"
    save_pixels(task.model, path)
    loaded = load_pixels(path, flat=load_flat(flat).fingerprint)
    assert largest_difference(dict(loaded.state_dict()), dict(task.model.state_dict())) == 0
    with pytest.raises(ValueError, match="pixels.safetensors draws what another FlatDINO restores"):
        load_pixels(path, flat="0123456789abcdef")
    with pytest.raises(ValueError, match="flat.safetensors says dinotile_flatdino, needed is a decoder to pixels"):
        load_pixels(flat, flat="x")


def frechet(ones, others):
    """The distance of Gaussians with the means and covariances of rows."""
    ones, others = ones.double(), others.double()
    spread, beside = ones.T.cov(), others.T.cov()
    both = torch.linalg.eigvals(spread @ beside).sqrt().real.sum()
    return float((ones.mean(0) - others.mean(0)).square().sum() + spread.trace() + beside.trace() - 2 * both)


def test_samples_of_all_classes_in_turn_are_as_far_from_the_pictures_as_their_class_tokens(
    flat, folder, encoder, tmp_path
):
    task, loaded = task_of(flat, folder, encoder, tmp_path), load_flat(flat)
    config = DitConfig(loaded.fingerprint, 6, 16, "p", ("one", "other"))
    made = Generator(new_dit(config), Statistics(torch.zeros(6, 16), torch.ones(6, 16), 2))
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    score = pixel_score(loaded, task.model, task.data, device=CPU, generator=made, guidance=2.0)
    noise = torch.randn(12, 6, 16, generator=generator_for(0, "samples", 0))
    labels = torch.tensor([0, 1] * 6)
    latents = sample(made.module, made.statistics, labels=labels, noise=noise, guidance=2.0)
    true = torch.stack([task._sized(crop) for crop in task.data.crops(range(12))])
    with torch.no_grad():
        drawn = task.model(loaded.module.decode(latents)).clamp(0, 1)
        tokens = [ClassToken(encoder)(pixels) for pixels in (drawn, true)]
    assert score.samples == pytest.approx(frechet(*tokens), rel=1e-3) and score.samples != pytest.approx(
        score.frechet, rel=0.01
    )
    assert_near(torch.cat(list(made_up(made, 12, guidance=2.0, device=CPU))), latents)
    other = sample(made.module, made.statistics, labels=labels.flip(0), noise=noise, guidance=2.0)
    assert float((other - latents).abs().max()) > 1e-3, "classes differ"


def test_train_decoder_then_evaluate_and_what_they_refuse(flat, folder, tmp_path, dinotile):
    base = ("flatdino", "train-decoder", flat, folder, "--dino", demo.DINO, "--device", "cpu", "-o", tmp_path / "run")
    small = ("--size", "p", "--patch", "8", "--steps", "4", "--batch", "2", "--gan-from", "0.5", "--sample-every", "4")
    code, out, err = dinotile(*base, *small, "--validate-every", "4", "--log-every", "1")
    assert (code, out.strip()) == (0, str(tmp_path / "run" / "pixels.safetensors")), err
    code, _, err = dinotile(*base[:-1], folder / "run", *small)
    assert code == 2 and "pictures in" in err and "would be samples of the data" in err
    with Image.open(tmp_path / "run" / "samples" / "step-000004.png") as sheet:
        assert sheet.size == (GRID * 8, 2 * GRID * 8)  # one picture of twelve is held out
    judge = ("flatdino", "evaluate", flat, folder, "--device", "cpu", "--pixels", tmp_path / "run/pixels.safetensors")
    seen = ("--dino", demo.DINO, "--side", GRID * 14)
    code, out, err = dinotile(*judge, *seen, "-o", tmp_path / "numbers.json")
    assert code == 0 and "PSNR" in out and "rFID: not computed" in out, err
    *_, told = json.loads((tmp_path / "numbers.json").read_text())
    assert told["pictures"] == 12 and 0 < told["psnr"] < 60 and -1 <= told["ssim"] <= 1 and told["frechet"] > 0
    loaded = load_flat(flat)
    noise = Statistics(torch.zeros(6, 16), torch.ones(6, 16), 2)
    save_generator(
        new_dit(DitConfig(loaded.fingerprint, 6, 16, "p")), tmp_path / "generator.safetensors", statistics=noise
    )
    drawn = ("--decoder", tmp_path / "run/pixels.safetensors", "--count", "3", "--steps", "2", "--device", "cpu")
    code, _, err = dinotile(
        "flatdino", "sample", flat, tmp_path / "generator.safetensors", "-o", tmp_path / "s.png", *drawn
    )
    assert code == 0, err
    with Image.open(tmp_path / "s.png") as strip:
        assert strip.size == (3 * GRID * 8, GRID * 8)
    numbers = tmp_path / "more.json"
    code, out, err = dinotile(*judge, *seen, "--generator", tmp_path / "generator.safetensors", "-o", numbers)
    assert code == 0 and "12 samples: Frechet distance by DINO" in out and "rFID, gFID: not computed" in out, err
    *_, more = json.loads(numbers.read_text())
    assert more.pop("samples") > 0 and more == told
    code, _, err = dinotile(*judge[:6], *seen, "--generator", tmp_path / "generator.safetensors")
    assert code == 2 and "what draws them is left out: give --pixels DECODER" in err and err.count("\n") == 1
    code, _, err = dinotile(*judge, *seen, "--generator", tmp_path / "generator.safetensors", "--guidance", "2")
    assert code == 2 and "guidance 2 acts with a generator of classes only" in err
    code, _, err = dinotile(*judge, "--features", "dinov2")
    assert code == 2 and "--pixels are compared with pictures" in err and err.count("\n") == 1
    vgg = write_vgg(tmp_path / "vgg.safetensors", stages=(1, 1))
    code, _, err = dinotile(*base, *small, "--perceptual", vgg)
    assert (
        code == 2
        and "the checkpoint differs in perceptual: choose another output folder" in err
        and err.count("\n") == 1
    )
    code, _, err = dinotile(*base, *small, "--perceptual", demo.DINO)
    assert code == 0, "it is what --dino names"
    code, _, err = dinotile(*base, "--gan-from", "2")
    assert code == 2 and "gan-from 2 must be from 0 to 1" in err
    code, _, err = dinotile(*base, *small, "--perceptual", flat)
    assert code == 2 and "or a VGG without batch normalisation" in err and err.count("\n") == 1
