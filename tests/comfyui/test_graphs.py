"""Whole graphs over the HTTP API."""

import re
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles

from . import graphs, models
from .graphs import node, saved, soft_picture

pytestmark = pytest.mark.usefixtures("clean_log")
DEMO_DINO = Path(__file__).parents[2] / "demo" / "dino" / "dinotile-demo.safetensors"


@pytest.fixture(scope="module")
def photo(server) -> str:
    return server.upload(soft_picture(171, 261), "photo.png")


def test_the_one_node_path_gives_exactly_twice_the_size(server, photo):
    result = server.run(graphs.one_node(photo, tile=256, overlap=32))
    assert saved(server, result, "save").shape == (342, 522, 3)


def test_without_dino_without_text_and_with_another_scale_the_one_node_path_runs_too(server, small):
    prompt = graphs.one_node(small, scale=1.3, cfg=2.0)
    del prompt["upscale"]["inputs"]["dino"], prompt["upscale"]["inputs"]["adapter"]
    assert saved(server, server.run(prompt), "save").shape == (62, 83, 3)


def test_transparency_is_enlarged_as_on_the_command_line_and_leaves_the_colours_alone(server):
    shown = Image.fromarray(np.pad(np.full((20, 30), 255, np.uint8), ((8, 20), (10, 24))))  # a box of 20 x 30
    clear = soft_picture(48, 64)
    clear.putalpha(shown)
    prompt = graphs.one_node(server.upload(clear, "clear.png"))
    opaque = saved(server, server.run(prompt), "save")
    prompt["turned"] = node("JoinImageWithAlpha", image=("image", 0), alpha=("image", 1))
    prompt["upscale"]["inputs"]["image"] = ["turned", 0]
    made = saved(server, server.run(prompt), "save")
    assert made.shape == (96, 128, 4) and abs(made[..., :3] - opaque).max() <= 1
    known = resize(torch.tensor(np.asarray(shown) / 255, dtype=torch.float32)[None, None], height=96, width=128)
    assert abs(made[..., 3] - known[0, 0].numpy() * 255).max() <= 1
    assert made[..., 3].min() == 0 and made[..., 3].max() == 255


def test_dino_strength_0_and_no_dino_give_the_same_picture_and_strength_1_another(server, small):
    plain = graphs.one_node(small)
    del plain["upscale"]["inputs"]["dino"], plain["upscale"]["inputs"]["adapter"]
    off = saved(server, server.run(plain), "save")
    assert (saved(server, server.run(graphs.one_node(small, dino_strength=0.0)), "save") == off).all()
    assert (saved(server, server.run(graphs.one_node(small)), "save") != off).mean() > 0.1


def test_prompts_by_region_and_a_detail_mask_go_through_the_hosts_sampler(server, small):
    graph = graphs.step_by_step(small, tile=64, overlap=16) | graphs.by_ksampler()
    graph |= {
        "regions": node("DinoTile_Regions", features=("features", 0), k=2),
        "prompts": node(
            "DinoTile_PromptByRegion", regions=("regions", 0), fallback=("empty", 0), prompt_2=("empty", 0)
        ),
        "detail": node("DinoTile_DetailMask", features=("features", 0), image=("image", 0)),
        "masked": node("SetLatentNoiseMask", samples=("latent", 0), mask=("detail", 0)),
        "soft": node("DifferentialDiffusion", model=("tiled", 0)),
    }
    graph["conds"]["inputs"]["positive"] = ["prompts", 0]
    graph["ksampler"]["inputs"] |= {"model": ["soft", 0], "latent_image": ["masked", 0]}
    result = server.run(graph)
    assert result.ok, result
    assert server.picture(result.outputs["regions"]["images"][0]).size == (64, 48)


def test_masks_say_where_dino_acts_and_what_is_redrawn(server, small, report):
    """The left half."""
    size = {"width": 64, "height": 48}
    left = {
        "none": node("SolidMask", value=0.0, **size),
        "half": node("SolidMask", value=1.0, width=32, height=48),
        "left": node("MaskComposite", destination=("none", 0), source=("half", 0), x=0, y=0, operation="add"),
    }

    def run(**changes) -> np.ndarray:
        return saved(server, server.run(graphs.one_node(small, **changes) | left), "save")

    def halves(one, other) -> tuple[float, float]:
        """How far apart they are, at the left and at the right of the middle, around which the VAE mixes both."""
        return abs(one - other)[:, :48].mean(), abs(one - other)[:, 80:].mean()

    whole, still, off = run(), run(denoise=0.0), run(dino_strength=0.0)
    redrawn, kept = halves(run(denoise_mask=("left", 0)), still)
    with_dino, without = halves(run(dino_mask=("left", 0)), off)
    everywhere = halves(whole, still), halves(whole, off)
    report(
        f"redrawn {redrawn:.1f} and {kept:.1f} of {everywhere[0][1]:.1f}, with DINO {with_dino:.2f} and {without:.2f}"
    )
    assert redrawn > 0.5 * everywhere[0][0] and kept < 0.1 * everywhere[0][1]
    assert with_dino > 0.5 * everywhere[1][0] and without < 0.5 * everywhere[1][1]
    assert abs(run(denoise_mask=("none", 0)) - still).max() <= 1
    assert abs(run(dino_mask=("none", 0)) - off).max() <= 1


def test_cfg_with_one_prompt_is_guidance_by_dino_alone(server, small):
    """The negative has the same prompt and the learned null, so without DINO both sides of the guidance are equal."""

    def run(cfg: float, *, dino: bool) -> np.ndarray:
        prompt = graphs.one_node(small, cfg=cfg)
        if not dino:
            del prompt["upscale"]["inputs"]["dino"], prompt["upscale"]["inputs"]["adapter"]
        return saved(server, server.run(prompt), "save").astype(int)

    plain, once, twice = run(1.0, dino=False), run(1.0, dino=True), run(2.0, dino=True)
    assert abs(run(2.0, dino=False) - plain).max() <= 1
    assert abs(twice - plain).mean() > 1.2 * abs(once - plain).mean()


def test_an_upscale_model_makes_the_first_enlargement_and_the_size_stays_exact(server, small, report):
    """The model's factor is 4 and it inverts colours, so the result is that of the inverted picture without it."""

    def run(**changes) -> np.ndarray:
        prompt = graphs.one_node(small, scale=1.3, **changes)
        prompt["inverted"] = node("ImageInvert", image=("image", 0))
        prompt["esrgan"] = node("UpscaleModelLoader", model_name=models.ESRGAN)
        return saved(server, server.run(prompt), "save")

    plain, modelled = run(denoise=0.0), run(denoise=0.0, upscale_model=("esrgan", 0))
    inverted = run(denoise=0.0, image=("inverted", 0))
    near, far = abs(modelled - inverted).mean(), abs(modelled - plain).mean()
    report(f"upscale model: {near:.1f} of 255 from the inverted picture's result, {far:.1f} from the picture's")
    assert modelled.shape == (62, 83, 3)
    assert near < 0.25 * far
    redrawn = run(upscale_model=("esrgan", 0))
    assert redrawn.shape == (62, 83, 3)
    assert (redrawn != run()).mean() > 0.5


def test_every_picture_of_a_batch_is_upscaled_as_if_it_were_alone(server, small):
    prompt = graphs.one_node(small, image=("both", 0))
    prompt["inverted"] = node("ImageInvert", image=("image", 0))
    prompt["both"] = node("ImageBatch", image1=("image", 0), image2=("inverted", 0))
    result = server.run(prompt)
    assert result.ok, result
    pictures = [np.asarray(server.picture(entry)).astype(int) for entry in result.outputs["save"]["images"]]
    alone = saved(server, server.run(graphs.one_node(small)), "save")
    assert len(pictures) == 2
    assert abs(pictures[0] - alone).max() <= 1
    assert abs(pictures[1] - alone).max() > 10


def test_the_long_graph_runs_with_ksampler_and_with_the_tiled_sampler_to_the_same_picture(server):
    picture = server.upload(soft_picture(117, 133), "odd.png")
    prompt = graphs.step_by_step(picture, tile=128) | graphs.by_ksampler() | graphs.by_tiled_sampler()
    prompt["features view"] = node("DinoTile_PreviewPatches", features=("features", 0))
    prompt["tiles view"] = node("DinoTile_PreviewTiles", plan=("plan", 0), image=("enlarged", 0))
    result = server.run(prompt)
    ours, cores = saved(server, result, "sampler save"), saved(server, result, "ksampler save")
    assert ours.shape == (232, 264, 3)  # VAE Encode crops to whole latent cells
    assert (ours == cores).all()
    assert saved(server, result, "features view").shape == (117, 133, 3)
    assert saved(server, result, "tiles view").shape == (234, 266, 3)


def test_the_meters_tell_a_picture_from_another_and_at_which_tile_the_worst_seam_is(server):
    """A grey tile in a picture of 2 px more than its plan, of which one is above and one before it."""
    picture = server.upload(soft_picture(117, 133), "odd.png")
    grey = plan_tiles(232, 264, tile=128, overlap=32).boxes[1]
    prompt = {
        "image": node("LoadImage", image=picture),
        "dino": node("DinoTile_LoadDino", dino_name=models.DINO),
        "larger": node("ImageScaleBy", image=("image", 0), upscale_method="bicubic", scale_by=2.0),
        "grey": node("EmptyImage", width=grey.width, height=grey.height, batch_size=1, color=0x808080),
        "broken": node(
            "ImageCompositeMasked",
            destination=("larger", 0),
            source=("grey", 0),
            x=grey.left + 1,
            y=grey.top + 1,
            resize_source=False,
        ),
        "plan": node("DinoTile_PlanTiles", width=266, height=234, tile=128, overlap=32),
        "same": node("DinoTile_DinoFidelity", dino=("dino", 0), source=("image", 0), result=("larger", 0)),
        "other": node("DinoTile_DinoFidelity", dino=("dino", 0), source=("image", 0), result=("broken", 0)),
        "alone": node("DinoTile_SeamScore", image=("broken", 0), plan=("plan", 0)),
        "seams": node("DinoTile_SeamScore", image=("broken", 0), plan=("plan", 0), source=("image", 0)),
    }
    result = server.run(prompt)
    same, other = saved(server, result, "same"), saved(server, result, "other")
    assert same.shape == other.shape == (234, 266, 3) and same.mean() < 0.2 * other.mean()
    for key in ("alone", "seams"):
        (text,) = result.outputs[key]["text"]
        axis, at = re.search(r"worst at ([xy]) (\d+), ", text).groups()
        assert text.startswith("seams ") and int(at) in (
            (grey.left, grey.right) if axis == "x" else (grey.top, grey.bottom)
        )


def test_with_cfg_above_1_ksampler_and_the_tiled_sampler_agree(server, small):
    prompt = (
        graphs.step_by_step(small, tile=64, overlap=16) | graphs.by_ksampler(cfg=2.0) | graphs.by_tiled_sampler(2.0)
    )
    result = server.run(prompt)
    assert (saved(server, result, "sampler save") == saved(server, result, "ksampler save")).all()


def test_a_picture_goes_through_its_tiles_and_back_and_single_tiles_can_be_redone(server):
    picture = server.upload(soft_picture(205, 333), "tiles.png")
    prompt = {
        "image": node("LoadImage", image=picture),
        "size": node("GetImageSize", image=("image", 0)),
        "plan": node("DinoTile_PlanTiles", width=("size", 0), height=("size", 1), tile=96, overlap=16),
        "split": node("DinoTile_SplitByPlan", image=("image", 0), plan=("plan", 0)),
        "tiles save": node("SaveImage", images=("split", 0), filename_prefix="tile"),
        "merge": node("DinoTile_MergeByPlan", tiles=("split", 0), plan=("plan", 0), image=("image", 0)),
        "save": node("SaveImage", images=("merge", 0), filename_prefix="merged"),
        "batch": node("RebatchImages", images=("split", 0), batch_size=8),
        "merged batch": node("DinoTile_MergeByPlan", tiles=("batch", 0), plan=("plan", 0), image=("image", 0)),
        "batch save": node("SaveImage", images=("merged batch", 0), filename_prefix="batch"),
        "inverted": node("ImageInvert", image=("split", 0)),  # runs once for each tile
        "merged inverted": node("DinoTile_MergeByPlan", tiles=("inverted", 0), plan=("plan", 0)),
        "inverted save": node("SaveImage", images=("merged inverted", 0), filename_prefix="inverted"),
    }
    result = server.run(prompt)
    whole = np.asarray(soft_picture(205, 333)).astype(int)
    assert (saved(server, result, "save") == whole).all() and (saved(server, result, "batch save") == whole).all()
    inverted = saved(server, result, "inverted save")
    assert inverted.shape == (200, 328, 3) and abs(inverted - (255 - whole[2:202, 2:330])).max() <= 1
    pictures = [server.picture(entry) for entry in result.outputs["tiles save"]["images"]]
    assert len(pictures) == 8 and {tile.size for tile in pictures} == {(104, 120)}
    assert (np.asarray(pictures[0]) == whole[2:122, 2:106]).all()


def test_another_seed_computes_no_dino_features(server, report):
    picture = server.upload(soft_picture(40, 56), f"{uuid.uuid4().hex}.png")
    before = len(server.log)
    first = saved(server, server.run(graphs.one_node(picture, seed=1)), "save")
    second = saved(server, server.run(graphs.one_node(picture, seed=2)), "save")
    lines = [line for line in server.log[before:].splitlines() if "pictures encoded" in line]
    assert [line.split(": ")[-1].split(" pictures")[0] for line in lines] == ["1 of 1", "0 of 1"]
    assert (first != second).any()
    report("DINO encodings of two seeds through the one node: 1, then 0")

    long = graphs.step_by_step(picture, tile=64, overlap=16)
    assert server.run(long | graphs.by_ksampler(seed=1)).ok
    before = len(server.log)
    again = server.run(long | graphs.by_ksampler(seed=2))
    assert {"dino", "features", "conds", "patched"} <= set(again.cached) and "ksampler" not in again.cached
    assert "pictures encoded" not in server.log[before:]


def test_the_same_seed_gives_the_same_picture_again(server, small):
    first = saved(server, server.run(graphs.one_node(small, seed=7)), "save")
    server.run(graphs.one_node(small, seed=8))
    assert (saved(server, server.run(graphs.one_node(small, seed=7)), "save") == first).all()


def test_a_saved_adapter_loads_again_and_untrained_it_changes_nothing(server, base, small):
    prompt = graphs.one_node(small, adapter=models.TRAINED)
    new = graphs.new_adapter()
    save = node("DinoTile_SaveAdapter", adapter=("new", 0), filename_prefix="adapters/mine")
    only = {name: prompt[name] for name in ("flux", "dino")} | {"new": new, "saved": save}
    result = server.run(only)
    assert result.ok, result
    (file,) = (base / "output" / "adapters").glob("mine_*.safetensors")
    assert f"Saved adapters/{file.name}" in str(result.outputs["saved"])
    shutil.copy(file, base / "models" / "model_patches" / "mine.safetensors")
    assert "saved" in server.run(only).cached
    file.unlink()
    assert "saved" not in server.run(only).cached and file.is_file()
    options = server.get("/object_info/DinoTile_LoadAdapter")["DinoTile_LoadAdapter"]["input"]["required"]
    assert "mine.safetensors" in options["adapter_name"][1]["options"]
    fresh = saved(server, server.run(graphs.one_node(small, adapter="mine.safetensors")), "save")
    off = saved(server, server.run(graphs.one_node(small, dino_strength=0.0)), "save")
    assert (fresh == off).all()


@pytest.mark.parametrize(
    ("at", "first", "second"),
    [
        ("adapter", f"model_patches/{models.TRAINED}", f"model_patches/{models.SECOND}"),
        ("dino", f"dino/{models.DINO}", DEMO_DINO),
    ],
)
def test_a_model_file_that_is_replaced_under_its_name_is_read_again(server, base, small, at, first, second):
    folder, name = base / "models", f"replaced-{at}.safetensors"
    place = (folder / first).with_name(name)

    def run() -> tuple[np.ndarray, list[str]]:
        result = server.run(graphs.one_node(small, **{at: name}))
        return saved(server, result, "save"), result.cached

    shutil.copy(folder / first, place)
    before, _ = run()
    assert {at, "upscale"} <= set(run()[1])
    shutil.copy(folder / second, place)
    after, cached = run()
    place.unlink()
    assert at not in cached and (after != before).any()


def test_a_model_with_guidance_and_a_prompt_of_other_length_run(server, small):
    prompt = graphs.one_node(small, flux=models.FLUX_DEV, cfg=2.0, negative=("other", 0))
    prompt["other"] = node("DinoTile_EmptyConditioning", model=("flux", 0), tokens=9, guidance=1.0)
    assert saved(server, server.run(prompt), "save").shape == (96, 128, 3)
