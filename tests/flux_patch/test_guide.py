"""Who gives a region its DINO row."""

import torch

from dinotile.flux_patch.guide import NullGuide, PartGuide, PictureGuide
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.tiling.plan import Box

CANVAS = 20, 40  # latent cells
TOKENS = DinoTokens(torch.zeros(2, 5, 10, 8), torch.zeros(2, 8))


def test_a_part_that_is_sampled_alone_has_the_tokens_of_its_own_place_in_the_whole():
    guide = PictureGuide(TOKENS, Strength(0.5))
    part = PartGuide(guide, Box(4, 16, 10, 20), CANVAS)
    own, whole = part.row(1, Box(2, 6, 5, 8), canvas=(10, 20)), guide.row(1, Box(6, 22, 5, 8), canvas=CANVAS)
    assert (own.tokens, own.image, own.box, own.settings) == (TOKENS, 1, whole.box, guide.strength)
    assert whole.box == (6 / 20, 22 / 40, 5 / 20, 8 / 40) and part.pictures == 2


def test_a_picture_may_end_before_its_canvas_does():
    row = PictureGuide(TOKENS, Strength(), covers=(16.0, 32.0)).row(0, Box(0, 8, 8, 8), canvas=CANVAS)
    assert row.box == (0.0, 0.25, 0.5, 0.25)


def test_the_null_keeps_place_and_strength_and_drops_the_features():
    guide = PictureGuide(TOKENS, Strength(0.5))
    row = NullGuide(guide).row(1, Box(0, 8, 8, 8), canvas=CANVAS)
    assert row.tokens is None and NullGuide(guide).pictures == 1
    assert (row.box, row.settings) == (guide.row(1, Box(0, 8, 8, 8), canvas=CANVAS).box, guide.strength)
