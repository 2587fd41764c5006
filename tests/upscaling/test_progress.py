"""What is told while a picture is made: totals are the work that was done, whatever the settings."""

import dataclasses

import pytest
import torch

from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_flux, tiny_kl

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=2, denoise=0.5, tile_batch=4)


@pytest.fixture(scope="module")
def upscaler(known_once):
    return Upscaler(tiny_flux(), tiny_kl(), dino=tiny_encoder("tiny-v2"), dino_uses=("retry",))


@pytest.fixture(scope="module")
def known_once():
    from dinotile.dino.specs import SPECS

    from ..dino.tiny import TINY

    with pytest.MonkeyPatch.context() as patch:
        for name, spec in TINY.items():
            patch.setitem(SPECS, name, spec)
        yield


@pytest.mark.parametrize(
    "changes",
    [{}, {"moving": True, "overlap": 32}, {"vae_detail": 1.0}, {"retry": 1.0, "adaptive": 0.5, "tile_batch": 1}],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_what_is_told_ends_at_its_total_which_is_the_tiles_that_were_sampled(upscaler, changes):
    rows, told = [], []
    hook = upscaler.host.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    settings = dataclasses.replace(SETTINGS, **changes)
    _, report = upscaler.upscale(picture(40, 52), settings, progress=lambda *line: told.append(line))
    hook.remove()
    stages = {line[0]: [each for each in told if each[0] == line[0]] for line in told}
    assert {"encode", "sample", "decode", "measure"} <= set(stages)
    for name, lines in stages.items():
        assert all(0 <= line[1] <= line[2] for line in lines), name
        assert lines[-1][1] == lines[-1][2], name
        shares = [line[1] / line[2] for line in lines]
        assert shares == sorted(shares), name
    assert {line[2] for line in stages["sample"]} == {2 * report["tiles"]["count"]}
    again = max((line[2] for line in stages.get("retry", [])), default=0)
    assert sum(rows) == 2 * report["tiles"]["count"] + (again if report["retry"] else 0)
    assert ("retry" in stages) == ("retry" in changes) == bool(report["retry"])
    count = report["tiles"]["count"]
    assert stages["sample"][-1][3] == f"step 2 of 2, tile {count} of {count}"


def test_the_vae_tells_of_its_layers_between_begin_and_end(upscaler):
    told = {"encode": [], "decode": []}
    latents = upscaler.host.encode(picture(48, 64, batch=2), told["encode"].append)
    upscaler.host.decode(latents, told["decode"].append)
    for shares in told.values():
        assert shares == sorted(shares) and shares[-1] == 1 and 0.5 in shares  # between the two pictures
        assert len(shares) > 20 and max(b - a for a, b in zip(shares, shares[1:], strict=False)) < 0.2


def test_what_is_repeated_is_told_again_and_the_end_stays_the_end(upscaler):
    """A step that begins anew with smaller tiles falls back to where it began."""
    told = []

    def full(module, args, kwargs):
        if kwargs["hidden_states"].shape[1] > 12 * 12:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = upscaler.host.transformer.register_forward_pre_hook(full, with_kwargs=True)
    settings = dataclasses.replace(SETTINGS, tile=256, tile_fit="exact")
    _, report = upscaler.upscale(picture(128, 160), settings, progress=lambda *line: told.append(line))
    hook.remove()
    lines = [line for line in told if line[0] == "sample"]
    assert report["out_of_memory"] and lines[-1][1:3] == (2 * report["tiles"]["count"],) * 2
