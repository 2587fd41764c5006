"""The workflows of the template browser and the help pages, held against the real host."""

import json
import shutil
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from . import graphs, models
from .server import Result

PACK = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
FLUX = [name for name in NAMES if name != "demo"]
NOTES = ("MarkdownNote", "Note")
ACTING = {
    "ControlNetApplyAdvanced": 1,
    "DinoTile_SourceAnchor": 1,
    "DinoTile_DinoGuidance": 0.5,
}  # by so much of 255, at least
NO_SOCKET = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def graph(name: str) -> dict:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


def prompt(name: str) -> dict:
    return json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text())


def nodes(name: str) -> dict[str, dict]:
    """The graph's nodes that take part in a prompt, by their id in it."""
    return {str(node["id"]): node for node in graph(name)["nodes"] if node["type"] not in NOTES}


def is_link(value: object) -> bool:
    return isinstance(value, list)


def is_widget(declared: list) -> bool:
    return isinstance(declared[0], list) or declared[0] in NO_SOCKET


def model_files(name: str) -> set[str]:
    """Model files that a workflow loads and the pack does not bring."""
    values = (value for node in prompt(name).values() for value in node["inputs"].values())
    files = {value for value in values if isinstance(value, str) and value.endswith(".safetensors")}
    return {file for file in files if not file.startswith("dinotile-demo")}


def text_at(server, path: str) -> bytes:
    with urlopen(server.url + path, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.get("/object_info")


def test_the_workflows_are_those_that_are_meant():
    controlled = ("tile_controlnet_dino", "tile_controlnet_guided")
    flux = [f"flux1_{name}" for name in ("dev_guided", "dev_upscale", "dual_guidance", "schnell_upscale", *controlled)]
    assert NAMES == ["demo", *flux, "z_image_turbo_guided"]
    assert NAMES == sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_a_prompt_is_known_and_none_is_missing(info, name):
    sent = prompt(name)
    for node in sent.values():
        kind, given = node["class_type"], node["inputs"]
        declared = {**info[kind]["input"]["required"], **info[kind]["input"].get("optional", {})}
        assert set(info[kind]["input"]["required"]) <= set(given) <= set(declared), kind
        for key, value in given.items():
            if is_link(value):
                source, slot = value
                offered = info[sent[source]["class_type"]]["output"][slot]
                assert declared[key][0] in (offered, "*"), f"{kind}.{key} takes {declared[key][0]}, gets {offered}"


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_and_the_prompt_are_the_same_workflow(name):
    drawn, sent = nodes(name), prompt(name)
    assert {key: node["type"] for key, node in drawn.items()} == {key: node["class_type"] for key, node in sent.items()}
    links = {link[0]: [str(link[1]), link[2]] for link in graph(name)["links"]}
    for key, node in drawn.items():
        joined = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        assert joined == {name: value for name, value in sent[key]["inputs"].items() if is_link(value)}
        values = {name: value for name, value in sent[key]["inputs"].items() if not is_link(value)}
        assert values == {name: node["widgets_values_named"][name] for name in values}, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_widget_values_stand_in_the_order_of_the_nodes_inputs(info, name):
    """A graph keeps them by position: an input that is added later than the graph was saved shows here."""
    for node in nodes(name).values():
        if not node["type"].startswith("DinoTile_"):
            continue
        inputs = info[node["type"]]["input"]
        declared = {**inputs["required"], **inputs.get("optional", {})}
        expected = []
        for key, value in declared.items():
            if is_widget(value):
                expected.append(key)
                if value[1].get("control_after_generate") or key in ("seed", "noise_seed"):
                    expected.append("control_after_generate")
        named = node.get("widgets_values_named", {})
        assert list(named) == expected, node["type"]
        assert list(named.values()) == node.get("widgets_values", []), node["type"]


@pytest.mark.parametrize("name", FLUX)
def test_a_flux_workflow_lacks_nothing_but_model_files_and_shows_its_tiles_without_them(server, name):
    server.upload(Image.new("RGB", (64, 48)), "example.png")
    try:
        answer = server.post("/prompt", {"prompt": prompt(name), "client_id": name})
    except HTTPError as error:  # where nothing at all can run
        answer = json.loads(error.read())
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == model_files(name)
    previews = [key for key, node in prompt(name).items() if node["class_type"] == "DinoTile_PreviewTiles"]
    assert len(previews) == (name not in ("flux1_dev_guided", "z_image_turbo_guided"))
    if not previews:
        return
    result = server.wait(Result(prompt_id=answer["prompt_id"]))  # the host runs what needs none of them
    assert result.ok, result
    (preview,) = previews
    assert server.picture(result.outputs[preview]["images"][0]).size == (128, 96)


@pytest.fixture(scope="module")
def control_net(server) -> str:
    """A tiny ControlNet in the layout of the one that the workflow names."""
    state = models.controlnet_state(guidance_embeds=True)
    save_file(state, server.base / "models" / "controlnet" / "control.safetensors")
    return "control.safetensors"


def made_tiny(name: str, *, photo: str, control_net: str) -> dict:
    """A workflow's prompt with tiny FLUX.1 models, whose latents are Z-Image's too, small tiles and few steps; empty
    conditioning for the text encoders."""
    flux = models.FLUX if "schnell" in name else models.FLUX_DEV
    values = {
        "UNETLoader": {"unet_name": flux},
        "VAELoader": {"vae_name": models.VAE},
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


def test_in_the_dual_guidance_workflow_text_and_dino_each_act_alone(server):
    with Image.open(PACK / "demo" / "sample.jpg") as photo:
        uploaded = server.upload(photo.convert("RGB").resize((64, 48)), "small.png")
    sent = made_tiny("flux1_dual_guidance", photo=uploaded, control_net="")
    by_title = {node["_meta"]["title"]: node for node in sent.values() if "_meta" in node}
    by_title["New DINO Adapter"] |= {"class_type": "DinoTile_LoadAdapter", "inputs": {"adapter_name": models.TRAINED}}
    (negative,) = (node for node in sent.values() if node["inputs"].get("conditioning") == ["29", 0])
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


@pytest.mark.parametrize("name", NAMES)
def test_every_file_to_download_has_a_link_and_a_folder_that_the_host_knows(server, name):
    folders = server.get("/models")
    offered = set()
    for node in nodes(name).values():
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] in folders
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(".safetensors")
            assert "/resolve/main/" in model["url"]
            offered.add(model["name"])
    assert offered == model_files(name)


def test_a_dino_in_a_folder_of_its_own_is_listed_and_loads_by_the_name_that_the_workflows_give_it(server):
    (loader,) = [node for node in prompt("flux1_dev_guided").values() if node["class_type"] == "DinoTile_LoadDino"]
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
    (entry,) = (entry for output in result.outputs.values() for entry in output["images"])
    made = server.picture(entry).convert("RGB")
    assert made.size == (256, 192)
    known = photo.resize(made.size, Image.Resampling.BICUBIC)
    error = np.mean((np.asarray(made, float) - np.asarray(known, float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 20  # dB: the same picture


def test_the_template_browser_lists_every_workflow_with_a_picture(server):
    assert sorted(server.get("/api/workflow_templates")["DINOTile"]) == NAMES
    for name in NAMES:
        served = json.loads(text_at(server, f"/api/workflow_templates/DINOTile/{name}.json"))
        assert served["version"] == 0.4
        picture = text_at(server, f"/api/workflow_templates/DINOTile/{name}.jpg")
        assert picture[:3] == b"\xff\xd8\xff" and len(picture) < 100_000
        with Image.open(PACK / "workflows" / f"{name}.jpg") as thumbnail:
            assert thumbnail.size == (512, 512)  # the browser shows squares


def test_every_node_has_a_help_page_that_names_its_inputs(server, info):
    ours = {kind: node for kind, node in info.items() if kind.startswith("DinoTile_")}
    assert {path.stem for path in (PACK / "web" / "docs").glob("*.md")} == set(ours)
    for kind, node in ours.items():
        page = text_at(server, f"/extensions/DINOTile/docs/{kind}.md").decode("ascii")
        assert page.startswith(f"# {node['display_name']}\n")
        table = page.split("## Inputs")[1].split("## Outputs")[0]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")][2:]
        named = [name.strip() for row in rows for name in row.split(",")]
        declared = [*node["input"].get("required", {}), *node["input"].get("optional", {})]
        assert sorted(named) == sorted(declared), kind
