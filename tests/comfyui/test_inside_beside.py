"""Core's nodes, other packs and little memory beside DINO and tiles.

inside.py measures, this file says what the numbers must be.
"""

import pytest

from .conftest import one_sentence


def test_core_nodes_act_on_tiles_alike_however_many_fit_or_say_why_not(numbers, report):
    found = numbers("core_patches")
    others = sorted(name for name, said in found.items() if said == "for other models")
    assert set(others) <= {"FreeU", "FreeU_V2", "HyperTile", "TomePatchModel"}
    of_one_call = {name: found.pop(name) for name, said in list(found.items()) if str(said).startswith("tiles: ")}
    assert set(of_one_call) == {"FluxKVCache", "SelfAttentionGuidance"}
    assert all("one tile for" in said and "or sample without tiles" in said for said in of_one_call.values())
    refused = {
        name: of["one row"] for name, of in found.items() if name not in others and isinstance(of["one row"], str)
    }
    worst = max(of["two rows"] for name, of in found.items() if name not in others)
    report(
        f"{len(found) - len(others)} core nodes over tiles, all against two rows: {worst:.0e}; one row: {len(refused)} refuse"
    )
    assert {"NAGuidance", "EasyCache", "LazyCache", "SkipLayerGuidanceDiT"} < set(found)
    assert worst < 1e-4
    for name in set(found) - set(others) - set(refused):
        assert found[name]["one row"] < 1e-4, name
    for said in refused.values():
        one_sentence(said, ("memory of one device holds 1 of the 2", "tile of 64 x 64 px", "make the tiles smaller"))


def test_nag_gives_each_tile_what_it_gives_a_picture(numbers):
    found = numbers("nag")
    assert found["slots"] == [[0, 1]] * 4
    assert found["tiles"] == [[number] * 2 for number in range(4)]
    assert found["differs from tile after tile by"] < 1e-5 < 0.01 < found["acts by"]
    assert found["one tile is the whole"]
    one_sentence(found["no room"], ("NAGuidance needs them together",))
    assert found["without negative"] == "nothing was refused"


def test_style_tokens_of_core_act_on_tiles_and_leave_dinos_weights_on_its_own_tokens(numbers):
    found = numbers("style_tokens")
    assert found["one by one differs by"] < 1e-5 < 0.01 < found["acts by"]
    assert found["weighed, counted from the picture"] == [list(range(-5, 0))]


@pytest.mark.parametrize("case", ["all", "two pictures", "one by one"])
def test_a_patch_of_another_pack_reads_which_tile_each_row_shows(numbers, case):
    """The example of docs/other-packs.md."""
    found = numbers("contract")[case]
    assert found["rows"] == [{"all": 2, "two pictures": 4, "one by one": 1}[case]] * 15
    assert [seen[0] for seen in found["seen"]] == [n for n in range(15) for _ in range(found["rows"][0])]
    assert all(seen[1:] == [15, [224, 160], True] for seen in found["seen"])
    assert found["worst, px"] < 1e-2
    assert numbers("contract")["whole picture is plain"]
    assert all(numbers("contract")["elsewhere"].values()) and len(numbers("contract")["elsewhere"]) == 5


def test_where_memory_ends_fewer_tiles_share_a_call_and_the_result_is_the_same(numbers):
    found = numbers("fewer_tiles")
    still, moving = found["still"], found["moving"]
    assert still["said"][-2:] == [
        f"sample ran out of memory and goes on with {less} at a time" for less in ("1 tile", "one conditioning")
    ]
    assert set(still["rows"]) == {1} and still["failed"] == len(still["said"])
    assert max(moving["rows"]) <= 5 and 0 < moving["failed"] == len(moving["said"])
    assert max(still["differs by"], moving["differs by"]) < 1e-5
    assert max(found["rows of the next run"]) > 5


def test_tiles_shrink_only_where_nothing_else_helps_and_finished_steps_stay(numbers):
    found = numbers("smaller_tiles")
    assert [size[1:] for size in found["sizes"]] == [[32, 32], *[[24, 22]] * 6]  # the first step is not repeated
    assert found["said"][0] == "sample ran out of memory and goes on with 1 tile at a time"
    assert found["said"][-1] == "sample ran out of memory and goes on with tiles of 176 x 192 px"
    assert found["finite"]
    assert "CUDA out of memory" in found["where none is small enough"][1]


@pytest.mark.parametrize("way,words", [("strips", "lower strips"), ("alone", "no other model on the device")])
def test_vae_and_dino_take_less_where_memory_ends(numbers, way, words):
    found = numbers("vae_and_dino_alone")[way]
    stages = ("encode", "decode") if way == "strips" else ("dino", "decode")
    assert {f"{stage} ran out of memory and goes on with {words}" for stage in stages} <= set(found["said"])
    assert found["failed"] and found["differs by"] < 1e-5


@pytest.mark.parametrize("run", ["plain", "moving, batches", "all of it"])
def test_the_bar_of_the_one_node_rises_to_the_total_that_it_was_told_first(numbers, run):
    found = numbers("progress_of_the_one_node")[run]
    assert found["rising"] and found["totals"] == [found["last"][1]]
    assert found["last"][0] == found["last"][1]
