"""Tiles that DINO does not recognise are done again: the demo's DINO and VAE, and samplers that spoil on purpose."""

import dataclasses
import math

import pytest
import torch

from dinotile.demo import SAMPLE
from dinotile.files.pictures import load_picture
from dinotile.files.pixels import resize
from dinotile.tiling.canvas import cut
from dinotile.tiling.moving import moved
from dinotile.upscaling.api import load_upscaler, split_options
from dinotile.upscaling.joint import JointEuler, flow_sigmas
from dinotile.upscaling.masks import Masks
from dinotile.upscaling.pipeline import upscale
from dinotile.upscaling.retry import spread
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

SETTINGS = UpscaleSettings(tile=80, overlap=16, tile_fit="exact", steps=1, denoise=0.3, retry=0.8)
SPOILT = 4


class Still:
    """A sampler that gives back what it got, but for tiles into which it writes another place of the canvas."""

    def __init__(self, *spoilt, image=0):
        self.spoilt, self.image, self.seen = spoilt, image, []

    def __call__(self, latents, *, plan, denoise_mask=None, **more):
        self.seen.append((latents, denoise_mask))
        self.enlarged = more.get("enlarged")
        out, elsewhere = latents.clone(), latents.roll((latents.shape[-2] // 2, latents.shape[-1] // 2), (-2, -1))
        for number in self.spoilt:
            share = window(plan.latent, number)[0]
            out[self.image].lerp_(elsewhere[self.image], share)
        return out

    def describe(self, plan):
        return {"steps": 1, "sigmas": [0.3, 0.0]}


class Guided(Still):
    """Asks once for an estimate, and notes whether it was moved."""

    def __call__(self, latents, *, estimates, **more):
        self.moved = not torch.equal(estimates(latents, 0.3, start=0.3), latents)
        return super().__call__(latents, **more)


@pytest.fixture(scope="module")
def upscaler():
    return load_upscaler("demo")


@pytest.fixture(scope="module")
def small():
    return resize(load_picture(SAMPLE).pixels, height=64, width=96)


@pytest.fixture(scope="module")
def run(upscaler, small):
    def run(sampler, gentler=None, *, pixels=small, settings=SETTINGS, **more):
        settings = settings if gentler else dataclasses.replace(settings, retry=0.0)
        more |= {"encoder": upscaler.dino, "sampler": sampler, "gentler": gentler}
        return upscale(upscaler.host, pixels, settings, **more)

    return run


@pytest.fixture(scope="module")
def plan(upscaler):
    return upscaler.host.latents.plan_tiles(128, 192, tile=SETTINGS.tile, overlap=SETTINGS.overlap, fit="exact")


@pytest.fixture(scope="module")
def spoilt(run):
    return run(Still(SPOILT))


@pytest.fixture(scope="module")
def good(run):
    return run(Still())


def window(plan, *tiles):
    share = torch.zeros(1, plan.count)
    share[:, list(tiles)] = 1
    return spread(share, plan)


def psnr(one, other):
    return -10 * math.log10(float((one - other).square().mean()))


def test_a_spoilt_tile_is_mended_and_outside_of_its_window_nothing_changes(run, upscaler, plan, spoilt, good):
    (spoilt, before), (good, _) = spoilt, good
    result, report = run(Still(SPOILT), JointEuler(upscaler.host, upscaler.text, SETTINGS.gentler))
    (told,) = report["retry"]
    assert (told["picture"], told["tile"], told["kept"], told["blended"]) == (1, SPOILT + 1, 1, 0)
    assert told["before"] < told["needed"] <= told["after"]
    assert (told["before"], told["after"]) == pytest.approx((0.44, 0.93), abs=0.03)  # as in the README
    assert told["before"] == before["fidelity"]["tiles"][0][SPOILT] == min(before["fidelity"]["tiles"][0])
    assert told["after"] == report["fidelity"]["tiles"][0][SPOILT]
    assert report["fidelity"]["score"] > before["fidelity"]["score"] and before["retry"] is None
    outside = (window(plan, SPOILT) == 0).expand_as(result)
    assert torch.equal(result[outside], spoilt[outside]) and 0.5 < outside.float().mean() < 0.95
    box = plan.boxes[SPOILT]
    assert psnr(cut(result, box), cut(good, box)) > psnr(cut(spoilt, box), cut(good, box)) + 6
    assert set(report["seconds"]) >= {"measure", "retry"} and report["seconds"]["retry"] > 0


def test_what_a_second_try_makes_worse_is_not_kept_and_the_tile_is_mixed_with_the_enlarged_picture(
    run, small, plan, spoilt
):
    result, report = run(Still(SPOILT), Still(SPOILT))
    spoilt, _ = spoilt
    (told,) = report["retry"]
    assert (told["tile"], told["kept"]) == (SPOILT + 1, 0) and 0 < told["blended"] < 1
    assert told["before"] < told["after"]
    share = told["blended"] * window(plan, SPOILT)
    assert (result - torch.lerp(spoilt, resize(small, height=128, width=192), share)).abs().max() < 1e-4
    outside = (window(plan, SPOILT) == 0).expand_as(result)
    assert torch.equal(result[outside], spoilt[outside])


def test_a_good_tile_is_never_touched(run, plan, spoilt, good):
    """Whatever the second try does elsewhere, and where there is none."""
    (spoilt, _), (good, _), gentler = spoilt, good, Still(0, 1, 2)
    result, report = run(Still(), gentler)
    assert torch.equal(result, good) and report["retry"] == [] and gentler.seen == []
    wild, report = run(Still(SPOILT), Still(*(number for number in range(plan.count) if number != SPOILT)))
    outside = (window(plan, SPOILT) == 0).expand_as(wild)
    assert torch.equal(wild[outside], spoilt[outside]) and len(report["retry"]) == 1


def test_only_the_failed_tile_of_its_own_picture_is_done_again(run, small, plan):
    pixels = torch.cat([small.flip(3), small])
    gentler = Still()
    spoilt, _ = run(Still(SPOILT, image=1), pixels=pixels)
    result, report = run(Still(SPOILT, image=1), gentler, pixels=pixels)
    assert [(told["picture"], told["tile"], told["kept"]) for told in report["retry"]] == [(2, SPOILT + 1, 1)]
    assert torch.equal(result[0], spoilt[0]) and not torch.equal(result[1], spoilt[1])
    ((start, mask),) = gentler.seen
    assert mask.shape == (2, 1, 16, 24) and not mask[0].any() and torch.equal(mask[1:], window(plan.latent, SPOILT))
    assert len(report["fidelity"]["tiles"]) == 2 and len(report["fidelity"]["tiles"][0]) == plan.count


def test_a_second_try_starts_from_the_source_in_the_failed_tile_and_from_the_result_elsewhere(run, plan):
    first, gentler = Still(SPOILT), Still()
    mask = torch.ones(1, 1, 8, 12)
    mask[..., 6:] = 0.5
    run(first, gentler, masks=Masks(denoise=mask))
    ((encoded, cells),) = first.seen
    ((start, second),) = gentler.seen
    assert first.enlarged is None and torch.equal(gentler.enlarged, encoded)
    weights = window(plan.latent, SPOILT)
    assert torch.equal(second, weights * cells)
    drawn = Still(SPOILT)(encoded, plan=plan)
    assert torch.allclose(start, torch.lerp(drawn, encoded, weights))
    inner, outside = weights == 1, weights == 0
    assert inner.any() and torch.equal(start[inner.expand_as(start)], encoded[inner.expand_as(start)])
    assert torch.equal(start[outside.expand_as(start)], drawn[outside.expand_as(start)])


def test_where_windows_move_the_tiles_of_the_last_step_are_measured_and_tried_again(upscaler, small):
    settings = dataclasses.replace(SETTINGS, denoise=0.9, steps=3, retry=0.9, moving=True)
    _, report = upscaler.upscale(small, settings)
    assert report["tiles"]["count"] == len(report["fidelity"]["tiles"][0]) >= len(report["retry"]) > 2
    laid = moved(upscaler.host.latents.plan_tiles(128, 192, tile=80, overlap=16, fit="exact"), step=2, seed=0)
    edges = {*laid.tops[1:], *(box.bottom for box in laid.boxes), *laid.lefts[1:], *(box.right for box in laid.boxes)}
    assert {border["at"] for border in report["seams"]["worst"]} <= edges


def test_what_flux_overdoes_comes_back_to_the_source(upscaler, small):
    """At denoise 0.9 the demo's FLUX draws whatever it likes."""
    settings, stages = dataclasses.replace(SETTINGS, denoise=0.9, steps=3, retry=0.9), []
    _, wild = upscaler.upscale(small, dataclasses.replace(settings, retry=0.0))
    _, report = upscaler.upscale(small, settings, progress=lambda *step: stages.append(step))
    assert wild["retry"] is None and wild["fidelity"]["score"] < 0.7 < 0.85 < report["fidelity"]["score"]
    assert len(report["retry"]) > 4 and all(told["before"] < told["after"] for told in report["retry"])
    told = ["dino", "enlarge", "encode", "sample", "decode", "measure", "retry"]
    assert list(dict.fromkeys(stage for stage, *_ in stages)) == told
    assert [done == total for stage, done, total, *_ in stages if stage == "retry"][-1]


@pytest.mark.parametrize(("steps", "denoise"), [(6, 0.3), (20, 0.5), (4, 1.0)])
def test_a_second_try_is_the_end_of_the_same_schedule(steps, denoise):
    gentler = dataclasses.replace(SETTINGS, steps=steps, denoise=denoise).gentler
    whole, half = flow_sigmas(steps, denoise=denoise), flow_sigmas(gentler.steps, denoise=gentler.denoise)
    assert half == pytest.approx(whole[steps // 2 :]) and len(half) == steps // 2 + 1
    assert dataclasses.replace(SETTINGS, steps=1).gentler.steps == 1


def test_shares_of_all_tiles_cover_the_canvas_and_fade_at_the_borders_of_those_that_are_left_out(plan):
    whole = spread(torch.ones(1, plan.count), plan)
    assert (whole - 1).abs().max() < 1e-6 and whole.max() <= 1
    assert (window(plan, 0, 1) + window(plan, *range(2, plan.count)) - 1).abs().max() < 1e-6


def test_guidance_of_a_second_try_begins_anew_and_leaves_the_report_of_the_first(run):
    first, second = Guided(SPOILT), Guided()
    _, report = run(first, second, settings=dataclasses.replace(SETTINGS, anchor=1.0, guide_every=2))
    assert first.moved and second.moved
    assert report["guidance"]["pictures"][0]["anchor"]["moved"] == 1


def test_retry_without_dino_is_refused_before_any_work(flux, vae):
    with pytest.raises(
        ValueError, match="retry 0.8 does again what DINO does not recognise: give a DINO model, or set retry to 0"
    ):
        Upscaler(flux, vae).upscale(torch.rand(1, 3, 16, 16), dataclasses.replace(SETTINGS, tile=64, overlap=16))
    with pytest.raises(ValueError, match=r"^retry acts with a DINO model"):
        split_options({"retry": 0.8, "no_dino": True})
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="retry .* must be from 0 to 1: 0 is off"):
            dataclasses.replace(SETTINGS, retry=wrong)
