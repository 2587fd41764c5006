"""Settings that are looked at before any model loads: one clear sentence each."""

import pytest

from . import graphs
from .graphs import node
from .refusals import all_is_well_afterwards as all_is_well_afterwards
from .refusals import refused, refused_at_once
from .refusals import small as small

BAD_TILES = [
    ({"overlap": 256, "tile": 256}, "overlap 256 must be smaller than tile 256: raise the tile or lower the overlap"),
    ({"tile": 250}, "tile 250 must be a multiple of 16"),
    ({"tile": 17000}, "tile 17000 must be from 16 to 4096"),
    ({"overlap": -1}, "overlap -1 must be from 0 to 2048"),
]


@pytest.mark.parametrize(("inputs", "said"), BAD_TILES)
def test_tiles_that_cover_nothing_are_refused_before_any_model_loads(server, small, inputs, said):
    prompt = graphs.step_by_step(small) | graphs.by_tiled_sampler()
    prompt["plan"]["inputs"] |= inputs
    refused_at_once(server, prompt, "plan", {"tile", "overlap"}, said)
    prompt = graphs.one_node(small, **inputs)
    refused_at_once(server, prompt, "upscale", {"tile", "overlap", "dino", "adapter"}, said)


def test_an_adapter_without_a_dino_model_is_refused_before_any_model_loads(server, small):
    prompt = graphs.one_node(small)
    del prompt["upscale"]["inputs"]["dino"]
    said = "an adapter was given without a DINO model"
    refused_at_once(server, prompt, "upscale", {"tile", "overlap", "adapter"}, said)


def test_tiles_that_come_by_a_link_are_looked_at_when_the_node_runs(server, small):
    prompt = graphs.one_node(small, tile=("side", 0), overlap=64) | {"side": node("PrimitiveInt", value=64)}
    refused(server, prompt, "upscale", "overlap 64 must be smaller than tile 64")


def test_a_picture_without_a_whole_latent_cell_is_refused_by_its_size(server):
    prompt = {
        "picture": node("EmptyImage", width=7, height=64, batch_size=1, color=0),
        "size": node("GetImageSize", image=("picture", 0)),
        "plan": node("DinoTile_PlanTiles", width=("size", 0), height=("size", 1), tile=64, overlap=16),
        "shown": node("DinoTile_PreviewTiles", plan=("plan", 0), image=("picture", 0)),
    }
    refused(server, prompt, "plan", "the picture is 7 x 64 px, less than a latent cell of 8 px")


def test_what_is_no_number_is_refused_by_the_host(server, small):
    result = server.run(graphs.one_node(small, tile="wide"))
    assert [error["type"] for error in result.node_errors["upscale"]["errors"]] == ["invalid_input_type"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"tile": 512, "picture": 256}, "tile 512 is larger than picture 256: lower the tile or raise the picture"),
        ({"picture": 9000}, "picture 9000 must be from 16 to 8192"),
        ({"tile": 17}, "tile 17 must be from 0 to 4096 px in multiples of 16"),
    ],
)
def test_a_training_whose_tile_is_larger_than_its_picture_is_refused_before_any_model_loads(
    server, small, base, inputs, said
):
    (base / "input" / "few").mkdir(exist_ok=True)
    settings = {"steps": 1, "batch": 1, "learning_rate": 1e-4, "picture": 64, "tile": 64, "layers": "2/3"}
    settings |= {"mechanisms": "all", "width": 32, "grid": 8, "highest_sigma": 1.0, "guidance": 1.0}
    settings |= {"gradient_checkpointing": False, "remember": 0, "seed": 0, "filename_prefix": "never"}
    prompt = graphs.one_node(small)
    links = {"model": ("flux", 0), "vae": ("vae", 0), "dino": ("dino", 0)}
    prompt["train"] = node("DinoTile_TrainAdapter", folder="few", **links, **settings | inputs)
    del prompt["save"], prompt["upscale"]
    refused_at_once(server, prompt, "train", {"folder", "picture", "tile"}, said)


@pytest.mark.parametrize(
    ("at", "key"), [("dino", "dino_name"), ("adapter", "adapter_name"), ("flux", "unet_name"), ("vae", "vae_name")]
)
def test_a_missing_model_file_is_named_before_anything_runs(server, small, at, key):
    prompt = graphs.one_node(small)
    prompt[at]["inputs"][key] = "nothing.safetensors"
    result = server.run(prompt)
    (error,) = result.node_errors[at]["errors"]
    assert error["type"] == "value_not_in_list"
    assert error["extra_info"]["input_name"] == key


def test_numbers_outside_their_range_are_named_before_anything_runs(server, small):
    result = server.run(graphs.one_node(small, denoise=1.5, dino_strength=-0.1, tile=8))
    errors = result.node_errors["upscale"]["errors"]
    named = {error["extra_info"]["input_name"] for error in errors}
    assert named == {
        "denoise",
        "dino_strength",
        "tile",
        "overlap",
        "dino",
        "adapter",
    }  # the last four looked at together
    assert all("tile 8 must be from 16 to 4096" in error["details"] for error in errors if "tile" in error["details"])
