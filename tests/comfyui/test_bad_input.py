"""Bad input over HTTP: one clear sentence, nothing half-written, and the next prompt works."""

import json
import uuid

import pytest
import websocket
from PIL import Image

from . import graphs, models
from .graphs import node, soft_picture
from .refusals import all_is_well_afterwards as all_is_well_afterwards
from .refusals import refused
from .refusals import small as small


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (models.PICKLE, ("pickle",)),
        (models.TRUNCATED, ("cut short or damaged", "download it again")),
        (models.FOREIGN, ("not a DINOv2 or DINOv3",)),
    ],
)
def test_a_file_that_is_no_dino_is_refused(server, small, file, parts):
    refused(server, graphs.one_node(small, dino=file), "dino", file, *parts)


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (models.PICKLE, ("is a pickle",)),
        (models.TRUNCATED, ("cut short or damaged", "download it again")),
        (models.FOREIGN, ("no DINOTile adapter",)),
    ],
)
def test_a_file_that_is_no_adapter_is_refused(server, small, file, parts):
    refused(server, graphs.one_node(small, adapter=file), "adapter", file, *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"adapter": models.FOR_OTHER_DINO}, ("dinov2-demo", "dinov2-small")),
        ({"flux": models.FLUX_WIDE}, ("width 128", "width 256")),
        ({"flux": models.FLUX2}, ("the model", "FLUX")),
        ({"image": ("nan", 0)}, ("NaN",)),
    ],
    ids=["adapter for another DINO", "FLUX of another width", "FLUX.2", "NaN"],
)
def test_what_does_not_fit_is_refused_by_the_one_node(server, small, changes, parts):
    prompt = graphs.one_node(small, **changes)
    if changes.get("image"):  # a VAE of NaN weights paints NaN
        prompt["broken"] = node("VAELoader", vae_name=models.VAE_NAN)
        prompt["grey"] = node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
        prompt["nan"] = node("VAEDecode", samples=("grey", 0), vae=("broken", 0))
    refused(server, prompt, "upscale", *parts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": models.FOR_OTHER_DINO}, "the adapter was made for dinov2-small"),
        ({"anchor": 1.0, "guide": 1.0}, "guide has nothing to do beside anchor 1"),
        ({"dino_mask": ("mask", 0)}, "mask is 64 x 64 px, the picture 64 x 48"),
    ],
    ids=["adapter for another DINO", "settings", "mask"],
)
def test_what_does_not_fit_whatever_the_flux_is_refused_before_flux_loads(server, small, changes, said):
    prompt = graphs.one_node(small, seed=uuid.uuid4().int % 2**32, **changes)
    prompt["mask"] = node("SolidMask", value=1.0, width=64, height=64)
    prompt["flux"]["inputs"]["unet_name"] = models.FLUX_WIDE  # no other test leaves it in the host's cache
    result = server.run(prompt)
    assert result.error["node_id"] == "upscale" and said in result.error["exception_message"]
    assert "image" in [*result.error["executed"], *result.cached]
    assert not {"flux", "empty"} & {*result.error["executed"], *result.cached}


def test_what_is_not_finite_is_refused_and_its_stage_named_by_every_node_that_ends_in_a_picture(server, small):
    for changes, stage in (({"vae": models.VAE_NAN}, "encode"), ({"vae": models.VAE_WHITE}, "decode")):
        refused(
            server, graphs.one_node(small, **changes), "upscale", f"stage {stage} gave", "NaN or infinite", "float32"
        )
    bad_models = {"flux": {"unet_name": models.FLUX_NAN}, "adapter": {"adapter_name": models.ADAPTER_NAN}}
    for loader, file in bad_models.items():
        for sampler in (None, graphs.by_ksampler(), graphs.by_tiled_sampler()):
            steps = graphs.step_by_step(small, tile=64, overlap=16) if sampler else graphs.one_node(small)
            steps |= sampler or {}
            steps[loader]["inputs"] |= file
            at = "upscale" if not sampler else "ksampler" if "ksampler" in sampler else "sampler"
            refused(server, steps, at, "stage sample gave")
    steps = graphs.step_by_step(small) | graphs.by_ksampler()
    steps["ksampler"]["inputs"]["model"] = ["patched", 0]  # without tiles
    steps["adapter"]["inputs"] |= bad_models["adapter"]
    refused(server, steps, "ksampler", "stage sample gave")


def test_numbers_that_are_nan_pass_the_hosts_check_and_not_ours(server, small):
    for name in ("cfg", "denoise", "scale", "dino_strength", "fidelity"):
        prompt = graphs.one_node(small, **{name: float("nan")})
        refused(server, prompt, "upscale", f"{name.replace('_', ' ')} nan must be")
    prompt = graphs.one_node(small)
    prompt["empty"]["inputs"]["guidance"] = float("nan")
    refused(server, prompt, "empty", "guidance nan must be")
    for name in ("strength", "start_percent", "end_percent"):
        prompt = graphs.step_by_step(small) | graphs.by_ksampler()
        prompt["conds"]["inputs"][name] = float("nan")
        refused(server, prompt, "conds", "nan")


@pytest.mark.parametrize("name", ["dino_mask", "denoise_mask"])
def test_a_mask_of_other_proportions_and_a_dino_mask_without_dino_are_refused(server, small, name):
    prompt = graphs.one_node(small, **{name: ("mask", 0)}) | {"mask": node("SolidMask", value=1.0, width=64, height=64)}
    refused(server, prompt, "upscale", "mask is 64 x 64 px, the picture 64 x 48")
    if name == "dino_mask":
        del prompt["upscale"]["inputs"]["dino"], prompt["upscale"]["inputs"]["adapter"]
        refused(server, prompt, "upscale", "a DINO mask was given where DINO does not act")


def test_an_adapter_for_other_layers_is_refused_when_conditioning_is_projected(server, small):
    prompt = graphs.step_by_step(small) | graphs.by_ksampler()
    prompt["features"]["inputs"]["layers"] = "last"
    refused(server, prompt, "conds", "layers 4", "layers 3")


def test_dino_tokens_without_a_patched_model_are_refused(server, small):
    prompt = graphs.step_by_step(small, tile=64, overlap=16) | graphs.by_ksampler()
    prompt["tiled"]["inputs"]["model"] = ["flux", 0]
    refused(server, prompt, "ksampler", "not patched", "Patch FLUX with DINO")


def test_a_plan_for_another_size_is_refused(server, small):
    prompt = graphs.step_by_step(small, tile=64, overlap=16) | graphs.by_tiled_sampler()
    prompt["plan"]["inputs"] |= {"width": 512, "height": 512}
    refused(server, prompt, "sampler", "128 x 96", "512 x 512")


def test_a_model_that_is_tiled_twice_is_refused(server, small):
    prompt = graphs.step_by_step(small, tile=64, overlap=16) | graphs.by_tiled_sampler()
    prompt["tiled"] = node("DinoTile_TileModel", model=("patched", 0), plan=("plan", 0))
    prompt["guider"]["inputs"]["model"] = ["tiled", 0]
    refused(server, prompt, "sampler", "already tiled")


@pytest.mark.parametrize("at", ["upscale", "features", "tiles view"])
def test_a_batch_without_pictures_is_refused(server, small, base, at):
    """What Trim Video leaves of a clip that has ended."""
    first, second = soft_picture(32, 32), soft_picture(32, 32).rotate(90)
    first.save(base / "input" / "clip.mp4", "gif", save_all=True, append_images=[second], duration=100)
    views = {
        "features view": node("DinoTile_PreviewPatches", features=("features", 0)),
        "tiles view": node("DinoTile_PreviewTiles", plan=("plan", 0), image=("image", 0)),
    }
    prompt = graphs.one_node(small) if at == "upscale" else graphs.step_by_step(small) | views
    prompt |= {
        "clip": node("LoadVideo", file="clip.mp4"),
        "ended": node("Video Slice", video=("clip", 0), start_time=5.0, duration=0.0, strict_duration=False),
        "frames": node("GetVideoComponents", video=("ended", 0)),
    }
    prompt[at]["inputs"]["image"] = ["frames", 0]
    refused(server, prompt, at, "shape [0, ", "at least one picture")


def test_a_dino_without_its_adapter_is_refused(server, small):
    prompt = graphs.one_node(small)
    del prompt["upscale"]["inputs"]["adapter"]
    refused(server, prompt, "upscale", "a DINO model was given without an adapter")


@pytest.mark.parametrize(
    ("mode", "size"),
    [("L", (60, 44)), ("RGBA", (60, 44)), ("1", (60, 44)), ("I;16", (60, 44)), ("RGB", (1, 1)), ("RGB", (160, 16))],
    ids=["grey", "alpha", "black and white", "16 bit", "one px", "ten to one"],
)
def test_odd_pictures_come_out_in_their_exact_size(server, base, mode, size):
    picture = soft_picture(size[1], size[0], "L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.frombytes("I;16", size, bytes(2 * size[0] * size[1]))
    name = server.upload(picture, f"odd-{uuid.uuid4().hex}.png")
    prompt = graphs.one_node(name, scale=1.5)
    prompt["save"]["class_type"] = "PreviewImage"  # leaves nothing in the output folder
    del prompt["save"]["inputs"]["filename_prefix"]
    if mode == "RGBA":  # LoadImage drops alpha, so it is joined again
        prompt["rgba"] = node("JoinImageWithAlpha", image=("image", 0), alpha=("image", 1))
        prompt["upscale"]["inputs"]["image"] = ["rgba", 0]
    result = server.run(prompt)
    assert result.ok, result
    found = server.picture(result.outputs["save"]["images"][0]).size
    assert found == tuple(max(1, round(side * 1.5)) for side in size)


def test_an_interrupt_in_the_middle_ends_the_run_and_the_next_one_works(server, base, small):
    client = uuid.uuid4().hex
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=60)
    queued = server.queue(graphs.one_node(small, steps=400, seed=5), client_id=client)
    done = 0
    while done < 2:  # in the middle of sampling
        message = socket.recv()
        event = json.loads(message) if isinstance(message, str) else {"type": ""}
        if event["type"] == "progress" and event["data"]["node"] == "upscale":
            done = event["data"]["value"]
    server.post("/interrupt", {})
    socket.close()
    result = server.wait(queued, limit=20)
    assert result.interrupted and not result.outputs


def test_no_error_left_a_model_that_comfyui_takes_for_leaked(server):
    """After all runs above that ended in a sampling."""
    assert "memory leak" not in server.log.lower()
