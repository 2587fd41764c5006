"""The workflows of the template browser, run in the real host on tiny models and on the demo's."""

import json
import shutil
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from dinotile.demo.train import world

from . import graphs, models
from .flat import FLUX, PACK, model_files, prompt
from .server import Result

ALONE = (
    "FLUX.1 upscale",
    "FLUX.1 dev guided",
    "FLUX.2 klein guided",
    "Z-Image Turbo guided",
)  # one node does it all, and shows no tiles before
ACTING = {
    "ControlNetApplyAdvanced": 1,
    "DinoTile_SourceAnchor": 1,
    "DinoTile_DinoGuidance": 0.5,
}  # by so much of 255, at least


@pytest.fixture(scope="module")
def control_net(server) -> str:
    """A tiny ControlNet in the layout of the one that the workflow names."""
    state = models.controlnet_state(guidance_embeds=True)
    save_file(state, server.base / "models" / "controlnet" / "control.safetensors")
    return "control.safetensors"


def made_tiny(name: str, *, photo: str, control_net: str) -> dict:
    """A workflow's prompt with tiny FLUX.2 models, or FLUX.1 models, whose latents are Z-Image's too, small tiles and few steps;
    empty conditioning for the text encoders."""
    second = name.startswith("FLUX.2")
    flux = models.FLUX2 if second else models.FLUX if "schnell" in name else models.FLUX_DEV
    values = {
        "UNETLoader": {"unet_name": flux},
        "VAELoader": {"vae_name": models.TAEF2 if second else models.VAE},
        "DinoTile_LoadDino": {"dino_name": models.DINO},
        "ControlNetLoader": {"control_net_name": control_net},
        "LoadImage": {"image": photo},
        "DinoTile_PlanTiles": {"tile": 64, "overlap": 16},
        "BasicScheduler": {"steps": 2},
        "DinoTile_Upscale": {"tile": 64, "overlap": 16, "steps": 2},
        "SaveImage": {"filename_prefix": "workflows/tiny"},
    }
    sent = prompt(name)
    (loader,) = (key for key, node in sent.items() if node["class_type"] == "UNETLoader")
    empty = {"model": [loader, 0], "tokens": 4, "guidance": 3.5}
    for key, node in list(sent.items()):
        node["inputs"] |= values.get(node["class_type"], {})
        if node["class_type"] == "CLIPTextEncode":
            sent[key] = {"class_type": "DinoTile_EmptyConditioning", "inputs": empty}
        if node["class_type"] in ("DualCLIPLoader", "CLIPLoader"):
            del sent[key]
    return sent


def saved_picture(server, sent: dict) -> Image.Image:
    result = server.run(sent)
    assert result.ok, result
    (save,) = (key for key, node in sent.items() if node["class_type"] == "SaveImage")
    return server.picture(result.outputs[save]["images"][0]).convert("RGB")


@pytest.mark.parametrize("name", FLUX)
def test_a_flux_workflow_lacks_nothing_but_model_files_and_shows_its_tiles_without_them(server, name):
    server.upload(Image.new("RGB", (64, 48)), "dinotile_photo.jpg")
    try:
        answer = server.post("/prompt", {"prompt": prompt(name), "client_id": name})
    except HTTPError as error:  # where nothing at all can run
        answer = json.loads(error.read())
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == model_files(name)
    previews = [key for key, node in prompt(name).items() if node["class_type"] == "DinoTile_PreviewTiles"]
    assert len(previews) == (name not in ALONE)
    if not previews:
        return
    result = server.wait(Result(prompt_id=answer["prompt_id"]))  # the host runs what needs none of them
    assert result.ok, result
    (preview,) = previews
    assert server.picture(result.outputs[preview]["images"][0]).size == (128, 96)


@pytest.mark.parametrize("name", FLUX)
def test_a_flux_workflow_runs_to_its_picture_on_tiny_models(server, control_net, name):
    with Image.open(PACK / "demo" / "sample.jpg") as photo:
        uploaded = server.upload(photo.convert("RGB").resize((64, 48)), "small.png")
    sent = made_tiny(name, photo=uploaded, control_net=control_net)
    made = saved_picture(server, sent)
    assert made.size == (128, 96)
    assert np.asarray(made).std() > 5  # not one colour
    for node in (node for node in sent.values() if node["class_type"] in ACTING):
        strength, node["inputs"]["strength"] = node["inputs"]["strength"], 0
        without = saved_picture(server, sent)
        node["inputs"]["strength"] = strength
        assert np.abs(np.asarray(made, float) - np.asarray(without, float)).mean() > ACTING[node["class_type"]]
    if name.startswith(
        "FLUX.2"
    ):  # whose random TAEF2 hardly shows its latents; test_families.py has guidance on FLUX.2
        return
    for node in (node for node in sent.values() if node["inputs"].get("anchor")):
        inputs = node["inputs"]
        unguided = (
            {"guide": 0} if inputs["retry"] else {"guide": 0, "dino": None}
        )  # a DINO that nothing uses is refused
        for off in ({"anchor": 0}, unguided) if inputs["guide"] else ({"anchor": 0},):
            node["inputs"] = {key: value for key, value in (inputs | off).items() if value is not None}
            without = saved_picture(server, sent)
            changed = np.abs(np.asarray(made, float) - np.asarray(without, float)).mean()
            assert changed > (0.2 if "anchor" in off else 0.05), off  # by chance: 0, as the noise is the same
        node["inputs"] = inputs


def test_in_the_dual_guidance_workflow_text_and_dino_each_act_alone(server):
    with Image.open(PACK / "demo" / "sample.jpg") as photo:
        uploaded = server.upload(photo.convert("RGB").resize((64, 48)), "small.png")
    sent = made_tiny("FLUX.1 dual guidance", photo=uploaded, control_net="")
    by_title = {node["_meta"]["title"]: node for node in sent.values() if "_meta" in node}
    by_title["New DINO Adapter"] |= {"class_type": "DinoTile_LoadAdapter", "inputs": {"adapter_name": models.TRAINED}}
    (negative,) = (node for node in sent.values() if node["inputs"].get("conditioning") == ["41:29", 0])
    projections = [node["inputs"] for node in sent.values() if node["class_type"] == "DinoTile_ProjectConditioning"]

    def drawn(dino: float, text: float, *, strength: float = 1.0, away: float = 0.0) -> np.ndarray:
        """away: the negative's FLUX guidance, which stands for its words; the prompt's is 3.5."""
        by_title["DualCFGGuider"]["inputs"] |= {"cfg_conds": dino, "cfg_cond2_negative": text}
        negative["inputs"]["guidance"] = away
        for inputs in projections:
            inputs["strength"] = strength
        return np.asarray(saved_picture(server, sent), int)

    plain, more_dino, more_text = drawn(1, 1), drawn(3, 1), drawn(1, 3)
    for one, other in ((plain, more_dino), (plain, more_text), (more_dino, more_text), (more_dino, drawn(3, 3))):
        assert abs(one - other).max() > 3
    assert abs(drawn(3, 1, strength=0) - drawn(1, 1, strength=0)).max() <= 1  # no DINO, nothing for its guidance
    assert abs(drawn(1, 3, away=3.5) - plain).max() <= 1  # no other words, nothing for the text's
    assert abs(drawn(3, 3, away=3.5) - more_dino).max() <= 1
    assert abs(drawn(3, 3, strength=0) - drawn(1, 3, strength=0)).max() <= 1


def test_a_dino_in_a_folder_of_its_own_is_listed_and_loads_by_the_name_that_the_workflows_give_it(server):
    (loader,) = [node for node in prompt("FLUX.1 dev guided").values() if node["class_type"] == "DinoTile_LoadDino"]
    name = loader["inputs"]["dino_name"]
    place = server.base / "models" / "dino" / name
    assert "/" in name and not place.exists()
    place.parent.mkdir()
    shutil.copy(server.base / "models" / "dino" / models.DINO, place)
    try:
        (offered,) = server.get("/object_info/DinoTile_LoadDino").values()
        assert name in offered["input"]["required"]["dino_name"][1]["options"]
        sent = {
            "dino": loader,
            "image": graphs.node("LoadImage", image=server.upload(Image.new("RGB", (64, 48)), "own.png")),
        }
        sent["features"] = graphs.node(
            "DinoTile_ExtractPatches", dino=("dino", 0), image=("image", 0), layers="last", side=56, crops=1
        )
        sent["view"] = graphs.node("DinoTile_PreviewPatches", features=("features", 0))
        result = server.run(sent)
        assert result.ok, result
    finally:
        shutil.rmtree(place.parent)


def test_the_demo_workflow_enlarges_a_photo_exactly_twice(server):
    with Image.open(PACK / "demo" / "sample.jpg") as sample:
        photo = sample.convert("RGB").resize((192, 128)).crop((32, 16, 160, 112))  # 128 x 96
    sent = prompt("demo")
    (load,) = (node for node in sent.values() if node["class_type"] == "LoadImage")
    load["inputs"]["image"] = server.upload(photo, "photo.png")
    result = server.run(sent)
    assert result.ok, result
    (entry,) = (entry for output in result.outputs.values() for entry in output.get("images", []))
    made = server.picture(entry).convert("RGB")
    assert made.size == (256, 192)
    (compared,) = (output for output in result.outputs.values() if "b_images" in output)
    assert np.array_equal(np.asarray(made), np.asarray(server.picture(compared["b_images"][0]).convert("RGB")))
    assert np.array_equal(np.asarray(photo), np.asarray(server.picture(compared["a_images"][0]).convert("RGB")))
    known = photo.resize(made.size, Image.Resampling.BICUBIC)
    error = np.mean((np.asarray(made, float) - np.asarray(known, float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 20  # dB: the same picture


def test_in_the_template_that_shows_it_dino_brings_back_what_flux_alone_loses(server):
    """The pictures that are compared, held against the scene that the source was drawn from."""
    scene = world.scene(np.random.default_rng(2_000_001))
    with Image.open(PACK / "web" / "examples" / "dinotile_shapes.png") as shapes:
        server.upload(shapes.convert("RGB"), "dinotile_shapes.png")
    sent = prompt("What DINO does")
    for node in sent.values():
        if node["class_type"] == "DinoTile_Upscale":
            node["inputs"]["steps"] = 6  # half of the template's, which take twice the time
    result = server.run(sent)
    assert result.ok, result
    (compared,) = (output for output in result.outputs.values() if "b_images" in output)
    without, with_dino = (
        np.asarray(server.picture(compared[side][0]).convert("RGB"), float) / 255 for side in ("a_images", "b_images")
    )
    assert with_dino.shape == scene.true().shape
    (saved,) = (entry for output in result.outputs.values() for entry in output.get("images", []))
    both = np.asarray(server.picture(saved).convert("RGB"), float) / 255  # for the canvas that has no slider
    assert np.array_equal(np.delete(both, range(384, 388), axis=1), np.concatenate([without, with_dino], axis=1))
    objects = scene.labels() != world.GROUND
    lost, kept = (((picture - scene.true())[objects] ** 2).mean() for picture in (without, with_dino))
    assert kept < lost / 3, (kept, lost)


def test_in_the_template_about_flatdino_restored_colours_are_dinos_but_for_the_outlines(server):
    """The pictures that are compared: each shape keeps its colour, and most of what differs is where shapes end."""
    scene = world.scene(np.random.default_rng(2_000_001))
    with Image.open(PACK / "web" / "examples" / "dinotile_shapes.png") as shapes:
        server.upload(shapes.convert("RGB"), "dinotile_shapes.png")
    result = server.run(prompt("What FlatDINO keeps"))
    assert result.ok, result
    (compared,) = (output for output in result.outputs.values() if "b_images" in output)
    whole, restored = (
        np.asarray(server.picture(compared[side][0]).convert("RGB"), float) / 255 for side in ("a_images", "b_images")
    )
    labels = np.asarray(
        Image.fromarray(scene.labels().astype(np.uint8)).resize(whole.shape[1::-1], Image.Resampling.NEAREST)
    )
    kinds = [labels == kind for kind in np.unique(labels)]
    apart = np.abs(whole - restored).mean(2)
    for kind in kinds:
        others = min(
            np.abs(restored[kind].mean(0) - whole[other].mean(0)).mean() for other in kinds if other is not kind
        )
        assert np.abs(restored[kind].mean(0) - whole[kind].mean(0)).mean() < others / 2
    inside = ~np.logical_or.reduce([np.asarray(_grown(kind)) & ~kind for kind in kinds])
    assert 0.005 < apart[inside].mean() < apart[~inside].mean() / 1.5


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and all within 5 px of it: about half of a patch of the shapes."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(11))) > 0
