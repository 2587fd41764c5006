"""FLUX by torch.compile, block by block: the same numbers, few graphs, and eager work where there is no compiler."""

import pytest
import torch
from torch._dynamo.utils import counters

from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers import compiled
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.host import Text

from ...near import assert_near
from ...tiny import tiny_adapter, tiny_flux, tiny_vae


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def host(**options):
    flux = tiny_flux()
    return DiffusersHost(flux, tiny_vae(), adapter=tiny_adapter(flux), **options)


def velocity(flux_host, strength=1.0, box=(0.0, 0.0, 1.0, 1.0), sigma=0.4):
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)).to(flux_host.device)
    features = FeatureMap(torch.linspace(-1, 1, 384).view(1, 2, 3, 64), torch.ones(1, 64), "tiny-v2", "3", (28, 42))
    features = features.to(flux_host.device)
    rows = [DinoRow(flux_host.adapter.module.project(features), 0, box, Strength(strength))] if strength else []
    given = {"text": Text.empty(flux_host.geometry), "rows": rows, "memo": RunMemo()}
    return flux_host.velocity(x, torch.tensor([sigma], device=x.device), **given)


@torch.no_grad()
def test_compiled_blocks_are_the_eager_ones_and_dino_costs_a_graph_for_each_site(monkeypatch):
    """Without a break, and without a graph more for another tile, strength or noise level, or for off again."""
    monkeypatch.setitem(compiled.compile_blocks.__kwdefaults__, "backend", "eager")
    eager, traced = host(), host(compile=True)
    graphs = []
    for changes in (
        {"strength": 0.0},
        {},
        {"box": (0, 0, 0.5, 0.5)},
        {"strength": 0.5},
        {"sigma": 0.2},
        {"strength": 0.0},
    ):
        assert_near(velocity(traced, **changes), velocity(eager, **changes))
        graphs.append(counters["stats"]["unique_graphs"])
    kinds, sites = 2, len(traced.adapter.config.sites)
    assert kinds <= graphs[0] and graphs[1] - graphs[0] <= sites and graphs[1:] == graphs[1:2] * 5
    assert not counters["graph_break"]


def test_blocks_have_room_for_graphs_of_many_shapes():
    """Many pictures need seven for each block: of 4, 2 and 1 tiles, of two sizes, with masks. Beyond the limit it is eager."""
    torch._dynamo.config.recompile_limit = 8
    compiled.compile_blocks(tiny_flux(), sites=20)
    assert 7 * (20 + 1) <= torch._dynamo.config.recompile_limit <= torch._dynamo.config.accumulated_recompile_limit


@torch.no_grad()
def test_without_a_compiler_the_work_goes_on_eagerly_and_says_so_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/such/compiler"))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    eager, traced = host(), host(compile=True)
    for strength in (0.0, 1.0):
        assert torch.equal(velocity(traced, strength), velocity(eager, strength))
    said = [record.message for record in caplog.records if "torch.compile cannot be had here" in record.message]
    assert len(said) == 1 and "/no/such/compiler" in said[0] and "goes on without" in said[0]


def test_other_errors_are_no_missing_compiler():
    def broken():
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        compiled.OrEager(broken, lambda: 1)()
