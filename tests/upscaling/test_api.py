import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dinotile
from dinotile.demo import DINO, SAMPLE
from dinotile.files.pictures import Picture, to_image
from dinotile.upscaling.api import load_upscaler, split_options, upscale_picture
from dinotile.upscaling.device import find_device, find_dtype
from dinotile.upscaling.settings import settings_for
from dinotile.upscaling.upscaler import Upscaler

from ..tiny import picture, tiny_flux, tiny_vae
from ..tiny_text import save_text_pipeline

WORKFLOW = Path(__file__).parents[2] / "workflows" / "api" / "demo.json"


def test_the_api_is_the_command_line(models, tmp_path):
    image = to_image(picture(30, 40))
    image.save(tmp_path / "in.png")
    options = {"model_path": models[1], "no_dino": True, "tile": 64, "overlap": 16, "steps": 1}
    seen = []
    result = dinotile.upscale(image, **options, progress=lambda *step: seen.append(step))
    assert result.size == (80, 60)
    assert list(dict.fromkeys(stage for stage, *_ in seen)) == ["load", "encode", "sample", "decode"]
    ends = {stage: (done, total) for stage, done, total, *_ in seen}
    assert all(done == total for done, total in ends.values()) and ends["load"] == (3, 3)
    assert seen[0] == ("load", 0, 3)
    assert isinstance(result, Image.Image)
    again = dinotile.upscale(tmp_path / "in.png", **options)  # by models that it loads anew
    assert abs(np.asarray(again, int) - np.asarray(result, int)).max() <= 1


def test_a_dino_model_needs_no_adapter_where_a_setting_uses_it(models):
    with pytest.raises(ValueError, match="a DINO model was given without an adapter"):
        load_upscaler(model_path=models[1], dino=DINO)
    alone = load_upscaler(model_path=models[1], dino=DINO, dino_uses=["guide"])
    assert alone.dino is not None and alone.host.adapter is None
    settings = settings_for("demo", steps=1)
    result, report = alone.upscale(picture(20, 30), settings)
    plain, _ = load_upscaler(model_path=models[1], no_dino=True).upscale(picture(20, 30), settings)
    assert torch.allclose(result, plain, atol=1e-6) and report["dino"] is None and report["model_memory"]["dino"] > 0


def test_alpha_and_profile_go_with_the_picture(models):
    upscaler = load_upscaler(model_path=models[1], no_dino=True)
    given = Picture(picture(20, 30), torch.full((1, 1, 20, 30), 0.5), icc=b"profile")
    result, _ = upscale_picture(upscaler, given, settings_for("demo", steps=1))
    assert result.alpha.shape == (1, 1, 40, 60) and torch.allclose(result.alpha, torch.tensor(0.5))
    assert result.icc == b"profile"


def test_what_of_a_file_was_left_out_is_logged(models, tmp_path, caplog):
    frames = [to_image(picture(16, 16, seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with caplog.at_level("WARNING", "dinotile"):
        dinotile.upscale(tmp_path / "two.gif", model_path=models[1], no_dino=True, steps=1)
    assert "two.gif: of its pages or frames the first was taken" in caplog.text


def test_grey_and_what_the_file_said_come_back_with_the_image(models):
    image = Image.new("L", (16, 16), 99)
    image.info |= {"dpi": (300, 300), "icc_profile": b"grey"}
    drawn = dinotile.upscale(image, model_path=models[1], no_dino=True, steps=1)
    assert drawn.mode == "L" and drawn.info["dpi"] == (300, 300) and drawn.info["icc_profile"] == b"grey"


@pytest.mark.parametrize(
    "given", [np.zeros((8, 8, 3)), torch.rand(1, 3, 8, 8), None, ["a.png"], (name for name in "a")]
)
def test_what_is_no_path_is_refused_with_what_to_give_instead(given, tmp_path):
    for call, said in (
        (dinotile.upscale, "the picture is .*: give that or a PIL image, and arrays and tensors to load_upscaler"),
        (dinotile.load_picture, "the picture is .*: give the path of a file"),
        (dinotile.load_dino, "the DINO model is .*: give that of a .safetensors file or of the folder"),
        (dinotile.load_adapter, "the adapter is .*: give that of a .safetensors file"),
        (partial(dinotile.save_picture, Picture(picture(8, 8))), "the output is .*: give the path of a file"),
        (partial(dinotile.run_workflow, image=SAMPLE), "the workflow is .*: give that of an API workflow file"),
        (partial(dinotile.run_workflow, WORKFLOW), "the picture is .*: give the path of a file"),
    ):
        with pytest.raises(ValueError, match=f"^{said}"):
            call(given)
    if given is not None:  # which leaves them out
        with pytest.raises(ValueError, match="^the mask is .*: give that or a PIL image, and tensors to Masks"):
            dinotile.load_masks(dino_mask=given)
        if not hasattr(given, "shape"):
            with pytest.raises(ValueError, match="^what was given as a path is .*needed is a path"):
                load_upscaler(model_path=given)


def test_an_upscaler_says_what_it_takes(models):
    upscaler, settings = load_upscaler(model_path=models[1], no_dino=True), settings_for("demo", steps=1)
    for given in (np.zeros((1, 3, 8, 8)), [SAMPLE], None, Image.new("RGB", (8, 8))):
        with pytest.raises(
            ValueError, match=r"^pixels are .*, needed is a tensor .*load_picture\(path\).pixels of a file"
        ):
            upscaler.upscale(given, settings)
        with pytest.raises(ValueError, match=r"^the picture is .*, needed is a Picture: take load_picture\(path\)"):
            upscale_picture(upscaler, given, settings)
    with pytest.raises(ValueError, match="^settings are a dict, needed are UpscaleSettings: make them by settings_for"):
        upscaler.upscale(picture(8, 8), {"scale": 2})
    with pytest.raises(ValueError, match="^the picture is 0 x 5 px, needed is at least 1 x 1"):
        dinotile.upscale(Image.new("RGB", (0, 5)))
    with pytest.raises(ValueError, match="^variant 5 must be one of demo"):
        load_upscaler(5)
    with pytest.raises(ValueError, match="^width '512' must be a whole number of px"):
        dinotile.plan_tiles(512, "512")


def test_models_load_one_after_the_other_in_threads(models):
    """What loads them sets torch's default dtype, and where it makes tensors, for all threads."""
    second, loading, began = [], threading.Event(), threading.Event()
    load = partial(load_upscaler, model_path=models[1], no_dino=True)
    thread = threading.Thread(target=lambda: second.append(load(progress=lambda *told: began.set())))

    def first(*told):
        if not loading.is_set():
            loading.set()
            thread.start()
            assert not began.wait(0.3)

    load(progress=first)
    thread.join()
    assert loading.is_set() and began.is_set() and isinstance(second[0], Upscaler)


def test_devices_and_dtypes():
    assert find_device("cpu").type == "cpu"
    assert find_dtype("auto", variant="demo") == torch.float32
    assert find_dtype("auto", variant="dev") == torch.bfloat16
    with pytest.raises(ValueError, match="device 'nonsense' cannot be used"):
        find_device("nonsense")


def test_dino_guidance_reaches_the_settings():
    with pytest.raises(ValueError, match="dino guidance 0.5 must be from 1 to 30"):
        dinotile.upscale(SAMPLE, dino_guidance=0.5)


def test_an_unknown_option_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"there is no option sharpness, there are .*denoise, .*scale.*variant"):
        dinotile.upscale(SAMPLE, sharpness=1.0)


def test_strength_is_another_name_of_denoise():
    for name in ("strength", "denoise"):
        with pytest.raises(ValueError, match="denoise 2 must be from 0 to 1"):
            dinotile.upscale(SAMPLE, **{name: 2})
    assert settings_for("demo", denoise=0.5, strength=None).denoise == 0.5
    with pytest.raises(ValueError, match="denoise 0.5 and strength 0.4 are one setting: give one of them"):
        settings_for("demo", denoise=0.5, strength=0.4)


def test_other_prompts_are_those_that_were_given_and_the_models_own(tmp_path):
    folder = save_text_pipeline(tmp_path)
    flux, vae = tiny_flux(), tiny_vae()
    flux.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    load, steps = partial(load_upscaler, "schnell", model_path=folder, no_dino=True), []
    for words, said in (
        (
            {"prompt": "K\udce4t"},
            "prompt K.udce4t has bytes of another encoding, which no model reads: give it as text, or",
        ),
        ({"prompts": ["x", "K\udce4t"]}, "prompt K.udce4t has bytes of another encoding"),
        ({"prompts": ["x", 5]}, "prompt 5 must be text"),
        ({"prompts": "a cat"}, "prompts a cat must be a list of texts"),
        ({"prompt": 5}, "prompt 5 must be text"),
        ({"negative": ["x"]}, r"negative \['x'\] must be text"),
    ):
        with pytest.raises(ValueError, match=f"^{said}"):
            load(**words, progress=lambda *step: steps.append(step))
    with pytest.raises(ValueError, match="^prompt 5 must be text"):
        split_options({"prompt": 5})
    assert steps == []
    upscaler = load(prompt="a cat", prompts=["x"])
    other = upscaler.with_prompt("x")
    assert other.with_prompt("a cat").text is upscaler.text and not torch.equal(
        other.text.context, upscaler.text.context
    )
    given = Upscaler(flux, vae, text=upscaler.text, texts={"x": other.text})
    assert given.with_prompt("x").text is other.text
    for made in (upscaler, given):
        with pytest.raises(ValueError, match="^prompt y is none of those that the models were loaded with: name it in"):
            made.with_prompt("y")
    with pytest.raises(
        ValueError, match="^there is no text but the one that these models were made with: load_upscaler"
    ):
        Upscaler(flux, vae, text=upscaler.text).with_prompt("x")
