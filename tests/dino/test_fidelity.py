import math

import pytest
import torch

from dinotile.dino.fidelity import Fidelity, agreement, heat_map


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_picture_agrees_with_itself_and_an_unrelated_one_does_not():
    source = features(2, 12, 12, 64)
    assert agreement(source, source).sub(1).abs().max() < 1e-5
    assert agreement(-source, source).max() < -0.99
    assert agreement(features(2, 12, 12, 64, seed=1), source).mean().abs() < 0.05


def test_it_is_the_cosine_of_patches_less_their_own_picture_s_mean():
    """What all patches share lifts no cosine, and each picture has its own of it."""
    source, found = features(1, 6, 6, 64), features(1, 6, 6, 64, seed=1)
    expected = torch.cosine_similarity(found - found.mean((1, 2)), source - source.mean((1, 2)), dim=-1)
    assert (agreement(found, source) - expected).abs().max() < 5e-3
    shared = 2 * features(64, seed=2)
    assert (agreement(found + shared, source - shared) - expected).abs().max() < 2e-2
    assert torch.cosine_similarity(found + shared, source + shared, dim=-1).min() > 0.5 > expected.max()


def test_one_patch_that_turns_away_shows_in_its_own_place_by_its_angle():
    source = features(1, 8, 8, 256)
    turned = source.clone()
    away = features(256, seed=3)
    away = away - (away @ source[0, 2, 5]) / source[0, 2, 5].square().sum() * source[0, 2, 5]
    away = away / away.norm() * source[0, 2, 5].norm()
    found = []
    for angle in (0, 30, 60, 90):
        turned[0, 2, 5] = math.cos(math.radians(angle)) * source[0, 2, 5] + math.sin(math.radians(angle)) * away
        cosines = agreement(turned, source)
        found.append(float(cosines[0, 2, 5]))
        others = cosines.flatten().sort().values[1:]
        assert others.min() > 0.99 and (angle == 0 or int(cosines.argmin()) == 2 * 8 + 5)
    assert found == pytest.approx([1, math.cos(math.pi / 6), 0.5, 0], abs=0.05)


def test_what_is_flat_in_both_agrees_and_what_is_flat_in_one_does_not():
    flat = features(64).expand(1, 5, 5, 64) + 1e-4 * features(1, 5, 5, 64, seed=1)
    other = features(64).expand(1, 5, 5, 64) + 1e-4 * features(1, 5, 5, 64, seed=2)
    assert agreement(other, flat).min() > 0.99
    assert agreement(features(1, 5, 5, 64, seed=3), flat).max() < 0.1


def test_the_summary_has_the_mean_and_the_worst_twentieth_of_both():
    result = torch.ones(1, 10, 10)
    result[0, :1, :] = 0.0  # a tenth of the patches
    found = Fidelity(result, torch.full((1, 10, 10), 0.75)).summary()
    assert found == pytest.approx({"score": 0.9, "worst": 0.0, "plain_score": 0.75, "plain_worst": 0.75})


def test_a_region_has_the_mean_of_its_own_patches_by_their_weights():
    cosines = torch.zeros(2, 4, 6)
    cosines[1, :2, 3:] = 1
    rows = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0.5, 1, 0.5]])
    columns = torch.tensor([[0.0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
    found = Fidelity(cosines, 1 - cosines).over(rows, columns)
    assert found.result.shape == (2, 4) and not found.result[0].any()
    assert found.result[1].tolist() == pytest.approx([1, 0.25, 0, 0.125])
    assert torch.allclose(found.plain, 1 - found.result)


def test_the_heat_map_is_black_where_all_agrees_and_brighter_the_less_does():
    heat = heat_map(torch.tensor([[[1.0, 0.75, 0.5, 0.25, 0.0, -1.0]]]), height=1, width=6)
    assert heat.shape == (1, 3, 1, 6) and 0 <= heat.min() and heat.max() <= 1
    light = heat.sum(1).flatten()
    assert light[0] == 0 and light[4] == light[5] == 3 and light[:5].diff().min() > 0.5
    assert heat_map(torch.ones(2, 3, 4), height=30, width=44).shape == (2, 3, 30, 44)
