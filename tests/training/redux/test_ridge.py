"""The ridge fit, its hidden layer and the store of tokens, on numbers alone."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from dinotile.training.redux.fit import STRENGTHS, FitSettings, fit_store, split
from dinotile.training.redux.mlp import Refined, refine
from dinotile.training.redux.report import cosines
from dinotile.training.redux.ridge import Linear, Moments, Ridge
from dinotile.training.redux.store import TokenStore
from dinotile.training.redux.tokens import context_targets

from ...limits import largest_file

WEIGHT = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@contextmanager
def filled_store(folder, count, function):
    """``count`` pairs of 16 random tokens and what the function makes of them."""
    generator = torch.Generator().manual_seed(1)
    with TokenStore(folder, ((16, 8), (16, 4))) as store:
        for _ in range(count):
            x = torch.randn(16, 8, generator=generator)
            store.add(x, function(x))
        yield store


def pairs(count=60, inputs=5, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator) + 2
    noise = torch.randn(count, outputs, generator=generator)
    return x, x @ torch.randn(inputs, outputs, generator=generator) + noise - 1


def moments(x, y):
    found = Moments.empty(4, x.shape[1], y.shape[1])
    for start in range(0, len(x), 4):
        found.add(x[start : start + 4], y[start : start + 4])
    return found


@pytest.mark.parametrize("strength", [1e-6, 0.1, 10.0])
def test_ridge_minimises_error_plus_penalty(strength):
    x, y = pairs()
    found = Ridge(moments(x, y)).solution(strength)
    centred, spread = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    penalty = strength * centred.square().sum() / 5  # n times the mean variance
    rows = torch.cat([centred, penalty.sqrt() * torch.eye(5).double()])
    wanted = torch.linalg.lstsq(rows, torch.cat([spread, torch.zeros(5, 3).double()])).solution
    assert torch.allclose(found.weight, wanted, atol=1e-9)
    assert torch.allclose(found.bias, y.double().mean(0) - x.double().mean(0) @ wanted, atol=1e-9)


def test_the_error_from_sums_is_the_error_of_the_pairs():
    found = Ridge(moments(*pairs())).solution(0.1)
    x, y = pairs(seed=1)
    direct = (found(x) - y).square().sum(1).mean()
    assert found.mean_squared_error(moments(x, y)) == pytest.approx(float(direct), rel=1e-5)
    halves = moments(x[:20], y[:20]).merged(moments(x[20:], y[20:]))
    assert found.mean_squared_error(halves) == pytest.approx(float(direct), rel=1e-5)


def test_an_endless_strength_predicts_the_mean():
    x, y = pairs()
    assert torch.allclose(Ridge(moments(x, y)).solution(1e12)(x), y.mean(0).expand_as(y), atol=1e-5)


@pytest.mark.parametrize(("count", "share"), [(5, 0.1), (50, 0.1), (200, 0.3)])
def test_a_split_is_a_partition(count, share):
    fit, choose, held = split(count, share=share, seed=0)
    assert sorted(fit + choose + held) == list(range(count))
    assert len(held) == max(2, round(share * count)) and len(choose) >= 1 and len(fit) >= 2
    assert split(count, share=share, seed=1) != (fit, choose, held)


def test_targets_are_means_of_regions():
    redux = torch.arange(36.0).view(1, 6, 6, 1).expand(-1, -1, -1, 2)
    found = context_targets(redux, grid=3)
    wanted = F.avg_pool2d(redux.movedim(3, 1), 2).movedim(1, 3).flatten(1, 2)[0]
    assert torch.allclose(found[1:], wanted, atol=1e-5)
    assert torch.allclose(found[0], redux.mean((0, 1, 2)))


def test_the_store_gives_back_what_it_got_and_leaves_nothing(tmp_path):
    tensors = [(torch.randn(3, 2), torch.randn(4)) for _ in range(5)]
    with TokenStore(tmp_path, ((3, 2), (4,))) as store:
        for pair in tensors:
            store.add(*pair)
        for index in (4, 0, 2):
            assert all(torch.equal(a, b) for a, b in zip(store.read(index), tensors[index], strict=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [500, 100_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, size):
    with (
        pytest.raises(ValueError, match=r"tokens of picture \d+ cannot be kept in .*(File too large|No space left)"),
        largest_file(5000),
        TokenStore(tmp_path, ((size,),)) as store,
    ):
        for _ in range(5):
            store.add(torch.zeros(size))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="missing cannot be written .*: write to another folder"):
        TokenStore(tmp_path / "missing", ((3,),))


def test_the_cosines_tell_a_good_fit_from_a_mean_and_from_a_swap(tmp_path):
    """Targets are a map of the inputs plus one strong common direction, which alone makes any cosine high."""
    torch.manual_seed(0)
    weight, common = torch.randn(6, 8), 6 * torch.randn(8)
    with TokenStore(tmp_path, ((4, 6), (4, 8))) as store:
        for _ in range(50):
            x = torch.randn(4, 6)
            store.add(x, x @ weight + common)
        found = cosines(lambda x: x @ weight + common, store, range(50), mean=common.expand(4, 8))
    assert found.fitted == pytest.approx(1, abs=1e-5) and found.fitted_about_mean == pytest.approx(1, abs=1e-5)
    assert 0.8 < found.mean < 0.99 and 0.8 < found.permuted < found.mean
    assert abs(found.permuted_about_mean) < 0.15


def test_every_held_out_picture_is_compared_with_another_ones_prediction(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    with TokenStore(tmp_path, ((4, 6), (4, 6))) as store:
        for pair in zip(x, y, strict=True):
            store.add(*pair)
        found = cosines(lambda x: x, store, range(3), mean=torch.zeros(4, 6))
    assert found.permuted == pytest.approx(float(F.cosine_similarity(x[[2, 0, 1]], y, dim=2).mean()), abs=1e-6)


def test_the_solution_is_that_of_all_pictures_but_the_held_out(tmp_path):
    torch.manual_seed(0)
    with TokenStore(tmp_path, ((4, 6), (4, 3))) as store:
        for _ in range(20):
            x = torch.randn(4, 6)
            store.add(x, x[:, :3] + 0.3 * torch.randn(4, 3))
        layers, mean, report = fit_store(store, FitSettings(held_out=0.2), device=torch.device("cpu"))
        fit, choose, held = split(20, share=0.2, seed=0)
        x, y = (torch.stack(parts) for parts in zip(*[store.read(i) for i in fit + choose], strict=True))
        wanted = Ridge(moments(x.flatten(0, 1), y.flatten(0, 1))).solution(report.strength)
        errors = {}
        for strength in STRENGTHS:
            x_fit, y_fit = (torch.cat(parts) for parts in zip(*[store.read(i) for i in fit], strict=True))
            x_choose, y_choose = (torch.cat(parts) for parts in zip(*[store.read(i) for i in choose], strict=True))
            errors[strength] = float(
                (Ridge(moments(x_fit, y_fit)).solution(strength)(x_choose) - y_choose).square().sum()
            )
    assert torch.allclose(layers["context.weight"], wanted.weight.T) and torch.allclose(
        layers["context.bias"], wanted.bias
    )
    assert torch.allclose(mean, x.double().mean(0)) and len(held) == report.held_out == 4
    assert report.strength == min(errors, key=errors.get)


def test_the_hidden_layer_starts_as_the_ridge_solution():
    x, y = pairs(inputs=16)
    linear = Ridge(moments(x, y)).solution(0.01)
    start = Refined(linear, seed=0)
    assert torch.allclose(start(x), linear(x), atol=1e-4)
    assert start.up.out_features == 64


def test_the_hidden_layer_learns_what_is_not_linear(tmp_path):
    with filled_store(tmp_path, 240, lambda x: x @ WEIGHT + 3 * x[:, :4].abs()) as store:
        x, y = (torch.cat(parts) for parts in zip(*[store.read(i) for i in range(200)], strict=True))
        linear = Ridge(moments(x, y)).solution(1e-4)
        refined = refine(linear, store, fit=range(200), choose=range(200, 220), epochs=60, seed=0)
        x, y = (torch.cat(parts) for parts in zip(*[store.read(i) for i in range(220, 240)], strict=True))
        before, after = ((model(x) - y).square().mean() for model in (linear, refined))
        assert refined.epochs > 0 and after < 0.9 * before


def test_a_layer_that_never_gets_better_leaves_the_ridge_solution(tmp_path):
    with filled_store(tmp_path, 20, lambda x: x @ WEIGHT) as store:
        exact = Linear(WEIGHT.double(), torch.zeros(4).double())
        refined = refine(exact, store, fit=range(15), choose=range(15, 20), epochs=10, seed=0)
        assert refined.epochs == 0
        x, _ = store.read(0)
        assert torch.allclose(refined(x), x @ WEIGHT, atol=1e-4)
