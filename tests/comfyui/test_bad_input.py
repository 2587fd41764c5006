"""Bad input over HTTP: one clear sentence, nothing half-written, and the next prompt works."""

import json
import os
import subprocess
import sys
import uuid

import pytest
import websocket
from PIL import Image

from . import graphs, models
from .graphs import node
from .test_graphs import soft_picture


@pytest.fixture(scope="module")
def small(server) -> str:
    return server.upload(soft_picture(48, 64), "small.png")


@pytest.fixture(autouse=True)
def all_is_well_afterwards(server, base, small):
    """Whatever happened, no file is left and a good prompt gives a picture."""
    before = files(base)
    yield
    assert files(base) == before
    assert server.run(graphs.one_node(small, seed=uuid.uuid4().int % 2**32)).ok


def files(base) -> set[str]:
    below = [path for folder in ("output", "models") for path in (base / folder).rglob("*")]
    return {str(path) for path in (*base.iterdir(), *below) if path.is_file()}


def refused(server, prompt: graphs.Prompt, at: str, *parts: str) -> str:
    """The sentence with which node ``at`` refuses the prompt while it runs; it is all that the log says of it."""
    before = len(server.log)
    result = server.run(prompt)
    assert result.error is not None, result
    assert result.error["node_id"] == at
    assert result.error["exception_type"] == "ValueError"
    sentence = result.error["exception_message"].strip()
    assert "\n" not in sentence and 20 < len(sentence) < 400
    for part in parts:
        assert part in sentence
    logged = server.log[before:]
    assert "Traceback" not in logged and f"!!! Exception during processing !!! {sentence}" in logged
    assert result.error["traceback"]  # for the page's report
    return sentence


def refused_at_once(server, prompt: graphs.Prompt, at: str, inputs: set[str], *parts: str) -> None:
    """Node ``at`` refuses the prompt at these inputs before any node runs, and the log has no traceback."""
    before = len(server.log)
    result = server.run(prompt)
    assert not result.prompt_id and set(result.node_errors) == {at}, result
    errors = result.node_errors[at]["errors"]
    assert {error["type"] for error in errors} == {"custom_validation_failed"}
    assert {error["extra_info"]["input_name"] for error in errors} == inputs
    for error in errors:
        for part in parts:
            assert part in error["details"]
    assert "Traceback" not in server.log[before:] and "got prompt" in server.log[before:]


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


def test_what_is_no_number_is_refused_by_the_host(server, small):
    result = server.run(graphs.one_node(small, tile="wide"))
    assert [error["type"] for error in result.node_errors["upscale"]["errors"]] == ["invalid_input_type"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"tile": 512, "picture": 256}, "tile 512 is larger than picture 256: lower the tile or raise the picture"),
        ({"picture": 9000}, "picture 9000 must be from 16 to 8192"),
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


@pytest.fixture
def occupied(base):
    """A file in the output folder where a folder would have to be."""
    path = base / "output" / "occupied"
    path.write_bytes(b"")
    yield path.name
    path.unlink()


@pytest.fixture
def locked(base):
    """A folder in the output folder into which nobody may write."""
    folder = base / "output" / "locked"
    folder.mkdir(mode=0o500)
    fixed = os.access(folder, os.W_OK) and subprocess.run(["chattr", "+i", folder]).returncode == 0  # for root
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    yield folder.name
    if fixed:
        subprocess.run(["chattr", "-i", folder], check=True)
    folder.rmdir()


def saving(prefix: str) -> graphs.Prompt:
    adapter = graphs.with_dino()["adapter"]
    return {
        "adapter": adapter,
        "saved": node("DinoTile_SaveAdapter", adapter=("adapter", 0), filename_prefix=prefix),
    }


@pytest.mark.parametrize("prefix", ["../outside", "adapters/../../outside", "", "..", "/outside"])
def test_an_adapter_is_saved_below_the_output_folder_only(server, prefix):
    refused(server, saving(prefix), "saved", repr(prefix), "must lie in output", "give a name such as")


def test_an_adapter_below_a_file_is_refused(server, occupied):
    refused(server, saving(f"{occupied}/mine"), "saved", f"{occupied}/mine cannot be written", "choose another name")


def test_an_adapter_in_a_folder_without_permission_is_refused(server, locked):
    refused(server, saving(f"{locked}/mine"), "saved", f"{locked}/mine", "cannot be written", "choose another place")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit another process")
def test_an_adapter_that_the_disk_has_no_room_for_is_refused(server, small):
    import resource

    prompt = graphs.one_node(small) | saving("full/mine")
    del prompt["save"], prompt["upscale"]
    prompt["adapter"] = graphs.new_adapter(width=1024)
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    room = server.log_path.stat().st_size + 2**20  # the log goes on, the adapter is larger
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        refused(server, prompt, "saved", "full/mine_00001_.safetensors cannot be written", "make room")
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)


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
