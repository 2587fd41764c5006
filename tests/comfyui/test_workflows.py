"""The workflows of the template browser and the help pages, held against the real host."""

import json
import shutil
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from dinotile.demo.train import world

from . import graphs, models
from .drawing import draw
from .flat import address, flat, graph
from .server import Result
from .templates import TEMPLATES, slug
from .thumbnails import SHAPES, SHOWN, SIDE, halves, on_demo_models, save, three

PACK = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
FLUX = [name for name in NAMES if name.startswith(("FLUX.", "Z-Image"))]  # those that need files
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
NO_SOCKET = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def prompt(name: str) -> dict:
    return json.loads((PACK / "workflows" / "api" / f"{slug(name)}.json").read_text())


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
    flux = (
        "dev guided",
        "dev upscale",
        "dual guidance",
        "schnell upscale",
        "tile ControlNet DINO",
        "tile ControlNet guided",
    )
    assert NAMES == [
        *(f"FLUX.1 {name}" for name in flux),
        "FLUX.1 upscale",
        "FLUX.2 klein guided",
        "What DINO does",
        "What FlatDINO keeps",
        "Z-Image Turbo guided",
        "demo",
    ]
    assert sorted(map(slug, NAMES)) == sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))


def test_the_graphs_are_drawn_from_the_prompts(info, request):
    """After a change on purpose: ``pytest -n 0 tests/comfyui/test_workflows.py --rewrite-workflows``."""
    for title, drawing in TEMPLATES.items():
        drawn = draw(title, prompt(title), drawing, info)
        if request.config.getoption("--rewrite-workflows"):
            text = json.dumps(drawn, indent=1, ensure_ascii=False) + "\n"
            (PACK / "workflows" / f"{title}.json").write_text(text, encoding="utf-8")
        assert graph(title)["definitions"]["subgraphs"] == drawn["definitions"]["subgraphs"]
        assert graph(title) == drawn


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
    drawn, sent = flat(graph(name)), prompt(name)
    assert {key: node["type"] for key, node in drawn.items()} == {key: node["class_type"] for key, node in sent.items()}
    for key, node in drawn.items():
        assert node["title"] == sent[key]["_meta"]["title"]
        assert node["joined"] == {name: value for name, value in sent[key]["inputs"].items() if is_link(value)}
        values = {name: value for name, value in sent[key]["inputs"].items() if not is_link(value)}
        values.pop("compare_view", None)  # the page's own, which the graph does not keep
        assert values == {name: node["widgets_values_named"][name] for name in values}, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_subgraph_shows_is_what_the_nodes_inside_have(name):
    drawn = graph(name)
    inside = {inner["id"]: inner for inner in drawn["definitions"]["subgraphs"]}
    for node in drawn["nodes"]:
        if node["type"] not in inside:
            continue
        inner = inside[node["type"]]
        shown = [slot for slot in node["inputs"] if "widget" in slot]
        assert [slot["name"] for slot in node["inputs"]] == [end["name"] for end in inner["inputs"]]
        assert len(shown) == len(node["widgets_values"])
        for slot, value in zip(shown, node["widgets_values"], strict=True):
            (number,) = next(end["linkIds"] for end in inner["inputs"] if end["name"] == slot["name"])
            (link,) = [link for link in inner["links"] if link["id"] == number]
            (target,) = [each for each in inner["nodes"] if each["id"] == link["target_id"]]
            assert target["widgets_values_named"][target["inputs"][link["target_slot"]]["name"]] == value


@pytest.mark.parametrize("name", NAMES)
def test_widget_values_stand_in_the_order_of_the_nodes_inputs(info, name):
    """A graph keeps them by position: an input that is added later than the graph was saved shows here."""
    for node in flat(graph(name)).values():
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


@pytest.mark.parametrize("name", NAMES)
def test_every_file_to_download_has_a_link_and_a_folder_that_the_host_knows(server, name):
    folders = server.get("/models")
    offered = set()
    for node in flat(graph(name)).values():
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] in folders
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(".safetensors")
            assert "/resolve/main/" in model["url"]
            offered.add(model["name"])
    assert offered == model_files(name)


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


def test_the_page_is_given_the_pictures_that_the_templates_begin_with(server):
    assert "/extensions/DINOTile/examples.js" in server.get("/extensions")
    for picture in (PACK / "web" / "examples").iterdir():
        with urlopen(f"{server.url}/extensions/DINOTile/examples/{picture.name}", timeout=30) as answer:
            assert answer.read() == picture.read_bytes()


def drawn_for_the_browser(server, name: str) -> Image.Image:
    """A template's thumbnail, of what comes of it on the demo models."""
    if name in SHAPES:
        with Image.open(PACK / "web" / "examples" / "dinotile_shapes.png") as shapes:
            before, said = shapes.convert("RGB"), ""
    else:
        (left, top, side), said = SHOWN[name]
        with Image.open(PACK / "demo" / "sample.jpg") as sample:
            before = sample.convert("RGB").crop((left, top, left + side, top + side))
    photo = server.upload(before, "before.png")
    sent = on_demo_models(prompt(name), photo) if name in FLUX else prompt(name)
    (load,) = (node for node in sent.values() if node["class_type"] == "LoadImage")
    load["inputs"]["image"] = photo
    result = server.wait(server.queue(sent), limit=600)
    assert result.ok, result
    (compared,) = (output for output in result.outputs.values() if "b_images" in output)
    first, second = (server.picture(compared[side][0]).convert("RGB") for side in ("a_images", "b_images"))
    if name in SHAPES:
        return three(before, first, second, said=SHAPES[name])
    return halves(before, second, said=said)


def test_no_two_templates_show_the_same_picture():
    assert len({(PACK / "workflows" / f"{name}.jpg").read_bytes() for name in NAMES}) == len(NAMES)


def test_the_template_browser_lists_every_workflow_with_a_picture(server, request):
    assert sorted(server.get("/api/workflow_templates")["DINOTile"]) == NAMES
    for name in NAMES:
        if request.config.getoption("--rewrite-workflows"):
            save(drawn_for_the_browser(server, name), PACK / "workflows" / f"{name}.jpg")
        served = json.loads(text_at(server, address(name, "json")))
        assert served["version"] == 0.4
        picture = text_at(server, address(name, "jpg"))
        assert picture[:3] == b"\xff\xd8\xff" and len(picture) < 100_000
        with Image.open(PACK / "workflows" / f"{name}.jpg") as thumbnail:
            assert thumbnail.size == (SIDE, SIDE)


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
