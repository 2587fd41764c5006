"""Training inside a real ComfyUI: inside_training.py measures, this file says what the numbers must be."""

import json
import uuid
from pathlib import Path

import pytest
import torch
import websocket
from safetensors.torch import load_file

from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.load import load_vae
from dinotile.hosts.host import Text

from . import graphs, models
from .conftest import apart, numbers_of, one_sentence
from .graphs import node
from .test_graphs import soft_picture


@pytest.fixture(scope="module")
def trained(insides) -> dict:
    return insides.result("inside_training.py")


@pytest.fixture
def numbers(trained):
    return numbers_of(trained)


# The same as diffusers


@pytest.fixture(scope="module")
def call(trained) -> dict:
    assert "error" not in trained["for_diffusers"], trained["for_diffusers"]["error"]
    return load_file(f"{trained['folder']}/call.safetensors")


def diffusers_host(base, flux: str):
    from diffusers import FluxTransformer2DModel

    from dinotile.hosts.diffusers.host import DiffusersHost

    folder = base / "models"
    transformer = FluxTransformer2DModel(**models.SIZES | {"guidance_embeds": flux == "flux-dev"})
    transformer.load_state_dict(load_file(folder / "diffusion_models" / f"{flux}.safetensors"))
    return DiffusersHost(
        transformer,
        load_vae(str(folder / "vae" / models.VAE), dtype=torch.float32),
        adapter=load_adapter(folder / "model_patches" / models.TRAINED),
    )


@pytest.mark.parametrize("flux", ["flux", "flux-dev"])
def test_comfyui_and_diffusers_give_the_same_velocity_and_adapter_gradients(base, call, flux, report):
    host, on = diffusers_host(base, flux), Strength(1.0)
    module = host.adapter.module.requires_grad_(True).train()
    features = FeatureMap(call["patches"], call["cls"], "dinov2-demo", "3", (84, 98))
    tokens = module.project(features)
    rows = [
        DinoRow(tokens, 0, (0.0, 0.0, 0.5, 0.5), on),
        DinoRow(tokens, 0, (0.5, 0.25, 0.5, 0.75), on),
        DinoRow(None, 0, (0.0, 0.0, 1.0, 1.0), on),
        DinoRow(tokens, 1, (0.1, 0.2, 0.6, 0.6), on),
    ]
    text = Text(call["context"], call["pooled"], 3.0, call["mask"])
    velocity = host.velocity(call["latents"], call["sigmas"], text=text, rows=rows)
    velocity.square().mean().backward()
    difference = apart(call[f"{flux} velocity"], velocity.detach())
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    worst = max(apart(call[f"{flux} gradient {name}"], gradient) for name, gradient in gradients.items())
    report(
        f"training in ComfyUI and diffusers, {flux}: velocity {difference:.0e}, worst gradient {worst:.0e}, relative"
    )
    assert difference <= 1e-4
    assert worst <= 1e-4
    assert min(float(gradient.norm()) for gradient in gradients.values()) > 0


@pytest.mark.parametrize("flux", ["flux", "flux-dev"])
def test_gradient_checkpointing_changes_no_gradient(numbers, flux):
    assert numbers("for_diffusers")[f"{flux}: computed again differs by"] < 1e-5


@pytest.mark.parametrize("of", ["", "krea2_"])
def test_attention_that_is_differentiated_never_runs_in_cudnn_though_the_host_allows_it(numbers, of):
    found = numbers(f"{of}kernels")
    assert found["attentions"] >= 3 and found["in cuDNN"] == 0


def test_pictures_become_the_same_latents_and_back(base, call):
    host = diffusers_host(base, "flux")
    assert apart(call["encoded"], host.encode(call["pixels"])) <= 1e-4
    assert apart(call["decoded"], host.decode(call["encoded"])) <= 1e-4


# The node


def test_training_lowers_the_loss(numbers, report):
    found = numbers("trained")
    assert found["weights were made in inference mode"]  # so that the run shows what the host needs
    report(f"120 steps in ComfyUI: loss on fixed rows {found['loss untrained']:.3f} to {found['loss trained']:.3f}")
    assert found["loss trained"] < 0.9 * found["loss untrained"]
    assert found["loss of another start"] > found["loss trained"]


def test_the_adapter_is_saved_as_it_is_given_out_and_works_in_the_graph(numbers):
    found = numbers("trained")
    assert found["files"] == 1
    assert found["trained"] and found["steps"] == 120
    assert found["output is the file"]
    assert found["sample with it differs by"] > 0.01


def test_the_loss_curve_is_a_picture(numbers):
    found = numbers("trained")
    assert found["curve"] == [1, 480, 960, 3]
    assert found["curve is no blank"] > 0.05


def test_progress_goes_to_the_host(numbers):
    found = numbers("trained")
    assert found["last progress"] == [120, 120]
    assert found["previews"] >= 30


def test_training_leaves_the_hosts_models_and_switches_as_they_were(numbers):
    found = numbers("trained")
    assert found["flux is as before"] and found["sample is as before"]
    assert found["patches left"] == []
    assert found["in_training"] is False


def test_a_training_goes_on_from_an_adapter_with_its_configuration(numbers):
    found = numbers("continued")
    assert found["configuration"] == [24, 3, ["vector"]]
    assert found["without a rate the weights stay"] and found["start stays"]
    assert found["with one they move"] > 1e-4
    assert found["sites"] == ["double.0", "double.1", "single.0", "single.2"]
    assert found["sites of a new one"] == ["single.0", "single.1", "single.2"]
    assert found["values of a new one"] > 0


def test_the_same_settings_give_the_same_adapter(numbers):
    found = numbers("repeated")
    assert found["same settings"] < 1e-5
    assert found["another seed"] > 1e-3


def test_an_adapter_learns_with_guidance_and_says_so(numbers):
    found = numbers("repeated")
    assert found["with guidance"] > 1e-3 and found["same guidance"] < 1e-5
    assert found["guidance told"] == 2.0


def test_a_loader_runs_again_when_any_file_of_its_model_is_replaced_and_only_then(numbers):
    assert numbers("replaced") == {"kept": True, "changed": [False, True, True]}


def test_features_are_remembered_though_the_encoder_is_made_anew(numbers):
    found = numbers("remembered")
    assert found["computed"] == [1, 0, 1] and found["same"] and found["other"] > 0.1


def test_crops_scales_and_the_contexts_grid_belong_to_an_adapter(numbers):
    found = numbers("encodings")
    assert found["fits"] == [1, 1, 1] and len(found["refused"]) == 6
    for sentence in found["refused"].values():
        one_sentence(sentence, ("the features come from dinov2-demo layers 3", "the adapter was made for dinov2-demo"))
    assert found["configuration"] == [["3 crops 2 apart", 256, 3]] * 2
    assert found["picture"] == [1, 64, 80, 3]


def test_t5_and_a_grid_of_14_make_the_context_of_709_tokens(numbers):
    """512 of T5, CLS, and 14 x 14 patches."""
    assert numbers("encodings")["context"] == [709]


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 3), ("heun", 5)])
def test_the_one_node_tells_of_dino_of_the_vae_and_of_every_tile(numbers, sampler, evaluations):
    found = numbers("progress")
    values, totals = zip(*found[sampler], strict=True)
    assert set(totals) == {600} and list(values) == sorted(values) and values[-1] == 600
    assert values[:3] == (0, 100, 100) and 200 in values  # DINO, then the VAE by its layers; the steps are 200 to 500
    sampled = [value for value in values[values.index(200) + 1 :] if value <= 500]
    assert len(sampled) >= evaluations * found["tiles"] and len(set(sampled)) > 3 * found["tiles"] - 3
    assert {300, 400, 500} <= set(sampled)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_a_flux_of_low_precision_trains_a_float32_adapter(numbers, dtype):
    found = numbers("low_precision")[dtype]
    assert (found["stored in"], found["computed in"]) == (f"torch.{dtype}", "torch.bfloat16")
    assert found["finite"] and found["values"] > 0
    assert found["adapter"] == ["torch.float32"]


def test_an_interrupt_saves_what_was_trained_and_the_next_run_works(numbers):
    assert numbers("interrupted") == {
        "said": "InterruptProcessingException",
        "files": 1,
        "steps": 3,
        "trained": True,
        "said before the first step": "InterruptProcessingException",
        "files before the first step": 0,
        "in_training": False,
        "flag is left": False,
        "next run": 40,
        "goes on": 1,
    }


def test_a_cancelled_training_goes_on_where_it_stopped_and_equals_an_uncancelled_one(numbers):
    found = numbers("resumed")
    assert found["said"] == "InterruptProcessingException" and found["kept"] == ["step-000005"]
    assert found["told"] == [6, 7, 8, 9] and found["steps"] == [5, 9]
    assert found["apart"] < 1e-6


def test_another_input_does_not_go_on_from_a_cancelled_training(numbers):
    begin = numbers("resumed")["others begin at"]
    assert len(begin) == 5 and set(begin.values()) == {1}


def test_a_finished_training_leaves_no_folder_and_a_cancelled_one_its_own(numbers):
    found = numbers("resumed")
    assert found["folders after a whole run"] == 0 and found["folders beside"] == 6 and not found["left"]


@pytest.mark.parametrize("of", ["", "flux2_", "chroma_", "krea2_"])
def test_training_hears_and_sees_what_the_hosts_sampler_does(numbers, of):
    found = numbers(f"{of}of_family")
    assert found["beside the sampler"] < 1e-5
    assert found["patches in patches"] == 1


@pytest.mark.parametrize("family", ["flux2", "chroma", "krea2"])
def test_an_adapter_of_another_family_learns_with_checkpointing_as_without(numbers, family):
    found = numbers(f"{family}_of_family")
    context = [] if family == "krea2" else ["context"]
    assert found["family"] == family and found["mechanisms"] == ["cross_attention", *context]
    assert found["values"] and min(found["values"]) > 1e-4  # zero before
    assert found["checkpointed"] < 1e-5
    assert found["the model is as it was"]


REFUSED = {
    "no folder": ("folder is empty",),
    "missing folder": ("nowhere", "no folder"),
    "missing folder in input": ("input", "nowhere"),
    "empty folder": ("no samples", "empty"),
    "unreadable": ("unreadable picture",),
    "tiny": ("below 32 px",),
    "picture off the grid": ("picture", "40", "multiples of 16"),
    "name outside": ("../outside", "models/model_patches"),
    "absolute name": ("models/model_patches",),
    "name below a file": ("occupied/x", "another name"),
    "no name": ("models/model_patches",),
    "adapter of another DINO": ("dinov2-small", "dinov2-demo"),
    "adapter of another FLUX": ("width 128", "width 256"),
    "layers": ('layers "9"', "blocks 1 to 4"),
    "VAE of another FLUX": ("the VAE has latents of 16 channels per 8 px", "the model of 128 channels per 16 px"),
    "FLUX.1 Fill": ("384 channels per token", "Fill, Canny and Depth models need further inputs"),
    "NaN": ("not finite at step 1", "nothing was learned"),
    "tile above picture": ("tile 64", "picture 32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence_that_names_it(numbers, case):
    one_sentence(numbers("refusals")["said"][case], REFUSED[case])


@pytest.mark.parametrize(
    ("where", "told"), [("said outside", "is neither in"), ("said of unknown", "there is no folder")]
)
def test_folders_beyond_the_allowed_ones_get_one_sentence_whether_they_exist_or_not(numbers, where, told):
    said = numbers("refusals")[where]
    for name, sentence in said.items():
        one_sentence(sentence, (told,))
        assert sentence.replace(repr(name[:100]), "it") == next(iter(said.values())).replace(
            repr(next(iter(said))), "it"
        )


def test_what_is_refused_leaves_no_file_and_the_next_run_works(numbers):
    assert numbers("refusals")["files"] == []
    assert numbers("refusals")["afterwards"]


# Over HTTP


@pytest.fixture
def photos(base) -> Path:
    """A folder of two pictures in ComfyUI's input folder."""
    folder = base / "input" / f"photos-{uuid.uuid4().hex}"
    folder.mkdir()
    for number in range(2):
        soft_picture(64, 64).rotate(90 * number).save(folder / f"{number}.png")
    return folder


def training_prompt(folder: Path, **changed) -> graphs.Prompt:
    """Small settings."""
    settings = {
        "folder": folder.name,
        "filename_prefix": "http/trained",
        "steps": 3,
        "batch": 1,
        "learning_rate": 0.001,
        "picture": 64,
        "tile": 32,
        "layers": "2/3",
        "mechanisms": "cross_attention",
        "width": 16,
        "grid": 4,
        "highest_sigma": 1.0,
        "guidance": 1.0,
        "gradient_checkpointing": True,
        "remember": 0,
        "seed": 0,
    }
    links = {"model": ("flux", 0), "vae": ("vae", 0), "dino": ("dino", 0)}
    return {
        "flux": node("UNETLoader", unet_name=models.FLUX, weight_dtype="default"),
        "vae": node("VAELoader", vae_name=models.VAE),
        "dino": node("DinoTile_LoadDino", dino_name=models.DINO),
        "train": node("DinoTile_TrainAdapter", **links | settings | changed),
    }


@pytest.fixture
def made(base):
    """The files that a prompt writes; they go away with the test."""
    folder = base / "models" / "model_patches" / "http"
    yield lambda: sorted(folder.glob("*.safetensors"))
    for path in folder.glob("*.safetensors"):
        path.unlink()


def test_a_training_runs_in_a_prompt_and_its_adapter_can_be_chosen(server, made, photos):
    result = server.run(training_prompt(photos))
    assert result.ok, result.error
    assert server.picture(result.outputs["train"]["images"][0]).size == (960, 480)
    (file,) = made()
    assert load_adapter(file).trained
    options = server.get("/object_info/DinoTile_LoadAdapter")["DinoTile_LoadAdapter"]["input"]["required"][
        "adapter_name"
    ]
    assert f"http/{file.name}" in json.dumps(options)


def test_an_interrupt_from_the_browser_saves_and_the_same_prompt_goes_on(server, base, made, photos):
    client = uuid.uuid4().hex
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=60)
    prompt, runs = training_prompt(photos, steps=60), base / "output" / "dinotile" / "training"
    before = set(runs.glob("*"))
    queued = server.queue(prompt, client_id=client)
    done = 0
    while done < 2:
        message = socket.recv()
        event = json.loads(message) if isinstance(message, str) else {"type": ""}
        if event["type"] == "progress" and event["data"]["node"] == "train":
            done += 1
    server.post("/interrupt", {})
    socket.close()
    result = server.wait(queued, limit=30)
    assert result.interrupted and not result.outputs
    (file,) = made()
    steps = load_adapter(file).config.provenance["steps"]
    assert 1 <= steps < 60
    (place,) = set(runs.glob("*")) - before
    assert server.run(prompt).ok
    assert len(made()) == 2 and not place.exists()


def test_a_training_runs_again_when_its_pictures_changed_or_its_adapter_is_gone_and_only_then(server, made, photos):
    prompt = training_prompt(photos, steps=1)

    def trained() -> bool:
        result = server.run(prompt)
        assert result.ok, result.error
        return "train" not in result.cached

    assert trained() and not trained()
    soft_picture(64, 64).rotate(45).save(photos / "0.png")
    assert trained() and not trained()
    soft_picture(64, 64).save(photos / "more.png")
    assert trained() and not trained()
    made()[-1].unlink()
    assert trained() and not trained()
    assert len(made()) == 3


def test_the_nodes_offer_the_folders_below_input_and_refuse_others_before_anything_runs(server, photos, tmp_path):
    for kind in ("DinoTile_TrainAdapter", "DinoTile_FitProjection"):
        assert photos.name in server.get(f"/object_info/{kind}")[kind]["input"]["required"]["folder"][1]["options"]
    prompt = training_prompt(photos)
    prompt["train"]["inputs"]["folder"] = str(tmp_path)
    errors = server.run(prompt).node_errors["train"][
        "errors"
    ]  # the host repeats it at all inputs that are looked at together
    assert [error["extra_info"]["input_name"] for error in errors] == ["folder", "picture", "tile"]
    (said,) = {error["details"].partition(" - ")[2] for error in errors}
    assert str(tmp_path) in said
