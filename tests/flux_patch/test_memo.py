"""What a run keeps, and that a run that can keep nothing gives the same."""

import torch

from dinotile.flux_patch.memo import RunMemo, bytes_of
from dinotile.flux_patch.rows import WHOLE, DinoRow, make_call
from dinotile.flux_patch.schedule import Strength


def test_a_value_is_made_once_while_there_is_room_and_each_time_beyond():
    memo, made = RunMemo(limit=100, limit_of_large=50), []

    def ask(key, size, **more):
        return memo.once(key, lambda: made.append(key) or torch.zeros(size, dtype=torch.uint8), **more)

    for _ in range(2):
        ask("a", 40), ask("large", 20, large=True), ask("b", 50), ask("c", 20)
    assert made == ["a", "large", "b", "c", "large", "c"]
    assert memo.bytes == 90


@torch.no_grad()
def test_all_tensors_of_a_value_count(adapter, features):
    call = call_for(adapter, features, RunMemo())
    held = (call.regions.sequence, call.regions.keys, call.regions.context, call.regions.vector)
    assert bytes_of(call.regions) == sum(tensor.nbytes for tensor in held)
    assert call.regions.keys.shape[:3] == (len(adapter.config.sites), 2, 1)


def call_for(adapter, features, memo, tokens=None, box=WHOLE):
    tokens = adapter.module.project(features) if tokens is None else tokens
    return make_call(
        adapter,
        [DinoRow(tokens or None, box=box, settings=Strength(0.7, mask=torch.ones(4, 4) / 2))],
        sigmas=torch.tensor([0.5]),
        token_size=(4, 4),
        percent_to_sigma=lambda percent: 1 - percent,
        dtype=torch.float32,
        memo=memo,
    )


@torch.no_grad()
def test_a_run_without_room_makes_everything_again_and_gives_the_same(adapter, features):
    tokens, room, none = adapter.module.project(features), RunMemo(), RunMemo(0, 0)
    first, again = (call_for(adapter, features, room, tokens) for _ in range(2))
    assert again.regions is first.regions and room.bytes > 0
    first, again = (call_for(adapter, features, none, tokens) for _ in range(2))
    assert again.regions is not first.regions and none.bytes == 0
    q = torch.randn(1, 2, 16, 128, generator=torch.Generator().manual_seed(1))
    results = [
        call.attend("single.0", q, torch.zeros(1, 16, 256))
        for call in (again, call_for(adapter, features, room, tokens))
    ]
    assert torch.equal(*results) and results[0].abs().max() > 0


@torch.no_grad()
def test_the_learned_null_takes_the_room_of_one_tile(adapter, features):
    memo, half = RunMemo(), (0.0, 0.0, 0.5, 0.5)
    first, other = (call_for(adapter, features, memo, tokens=(), box=box) for box in (WHOLE, half))
    assert other.regions is first.regions
    tokens = adapter.module.project(features)
    first, other = (call_for(adapter, features, memo, tokens, box=box) for box in (WHOLE, half))
    assert other.regions is not first.regions


def test_with_autograd_and_without_a_site_adds_the_same(adapter, features):
    q = torch.randn(1, 2, 16, 128, generator=torch.Generator().manual_seed(1))
    given = torch.randn(1, 16, 256, generator=torch.Generator().manual_seed(2))
    with torch.enable_grad():
        call, kept = call_for(adapter, features, RunMemo()), given.clone()
        trained = call.attend("double.1", q, kept)
    assert call.regions.keys is None and torch.equal(kept, given)  # a new tensor: the backward pass needs the old one
    with torch.no_grad():
        fast = call_for(adapter, features, RunMemo()).attend("double.1", q, kept)
    assert torch.equal(kept, fast)  # in place
    assert torch.allclose(fast, trained, atol=1e-6) and (fast - given).abs().max() > 1e-2
