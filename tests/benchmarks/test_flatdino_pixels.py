"""What decoders to pixels are compared by at toy size."""

import argparse

import pytest
import torch

pytest.importorskip("skimage")

from dinotile import demo
from dinotile.benchmarks.flatdino import draw_classes
from dinotile.benchmarks.flatdino_generator import right
from dinotile.benchmarks.flatdino_pixels import CPU, SHOWN, SIDE, codes, drawn, opened, pictures, squares, trained
from dinotile.dino.compress.checkpoint import load_flat
from dinotile.dino.load import load_dino
from dinotile.training.flatdino.generate import encode_all


def test_each_code_is_at_most_as_large_as_the_flatdino_and_has_a_decoder_of_its_own(tmp_path):
    encoder, flat = load_dino(demo.DINO), load_flat(demo.FLAT)
    encoder.model.requires_grad_(False)
    train, held, shown = pictures(tmp_path, encoder, count=4, held=3)
    assert (len(train), len(held), len(shown)) == (6, 3, SHOWN + 2)  # and photographs
    whole, own, *others, judged = codes(flat, train)
    assert whole.floats == 12 * 12 * 128 and own.flat is judged.flat is flat and own.gan == 1 > judged.gan
    assert len(others) == 4 and all(each.floats <= own.floats and each.bits <= own.bits for each in others)
    (patches,) = held.batch([0])
    assert torch.equal(whole.flat.module.decode(whole.flat.module.encode(patches)), patches)
    restored = [code.flat.module.decode(code.flat.module.encode(patches)) for code in (own, *others)]
    assert all(each.shape == patches.shape for each in restored)
    assert not any(torch.equal(one, other) for one, other in zip(restored, restored[1:], strict=False))
    decoder = trained(others[0], train, encoder, argparse.Namespace(folder=tmp_path, steps=1, size="p"))
    assert decoder.config.flat == others[0].name and drawn(others[0], decoder, shown).shape[1:] == (
        SIDE,
        SIDE * len(shown),
    )


def test_neighbours_find_the_class_of_other_pictures_and_no_other(tmp_path):
    draw_classes(tmp_path / "known", first=0, count=4)
    draw_classes(tmp_path / "asked", first=10**6, count=2)
    encoder, flat = load_dino(demo.DINO), load_flat(demo.FLAT)
    sets = [opened(tmp_path / name, encoder) for name in ("known", "asked")]
    known, asked = (encode_all(flat, data, classes=True, device=CPU) for data in sets)
    assert len(known.classes) == 8 and squares(sets[1], SIDE).shape == (16, 3, SIDE, SIDE)
    mean, deviation = asked.latents.mean(0), asked.latents.std(0)
    noise = mean + deviation * torch.randn(asked.latents.shape, generator=torch.Generator().manual_seed(0))
    assert right(flat, known, asked.latents, asked.labels) > 0.8  # chance finds one of eight
    assert right(flat, known, asked.latents, (asked.labels + 1) % 8) < 0.1
    assert right(flat, known, noise, asked.labels) < 0.4
