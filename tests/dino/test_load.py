import pickle
import re
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dinotile.dino.backbone import build_model
from dinotile.dino.encode import EncodeSettings
from dinotile.dino.layouts import detect_spec
from dinotile.dino.load import load_dino
from dinotile.dino.specs import SPECS

from ..near import assert_near
from .tiny import TINY, meta_forward, meta_shapes, meta_state, random_model, timm_state

PUBLISHED = {  # width, depth, heads, patch, registers, mlp width; the models' configurations on the hub
    "dinov2-small": (384, 12, 6, 14, 0, 1536),
    "dinov2-base-reg": (768, 12, 12, 14, 4, 3072),
    "dinov2-large": (1024, 24, 16, 14, 0, 4096),
    "dinov2-giant-reg": (1536, 40, 24, 14, 4, 4096),
    "dinov3-small": (384, 12, 6, 16, 4, 1536),
    "dinov3-small-plus": (384, 12, 6, 16, 4, 1536),
    "dinov3-base": (768, 12, 12, 16, 4, 3072),
    "dinov3-large": (1024, 24, 16, 16, 4, 4096),
    "dinov3-huge-plus": (1280, 32, 20, 16, 4, 5120),
}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.fixture
def meta_file(tmp_path: Path, tiny_specs: None):
    def write(name: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(meta_state(TINY[name]), path)
        return path

    return write


def test_the_table_holds_the_published_sizes():
    for name, sizes in PUBLISHED.items():
        spec = SPECS[name]
        assert (spec.width, spec.depth, spec.heads, spec.patch, spec.registers, spec.mlp_width) == sizes
    assert {spec.prefix for spec in SPECS.values()} == {1, 5}
    assert all(spec.max_side % spec.patch == 0 and spec.train_side % spec.patch == 0 for spec in SPECS.values())


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_builds_and_is_detected_from_its_own_names(name: str):
    with torch.device("meta"):
        state = build_model(SPECS[name]).state_dict()
    assert detect_spec(shapes_of(state)) == SPECS[name]


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_is_detected_in_metas_layout(name: str):
    assert detect_spec(meta_shapes(SPECS[name])) == SPECS[name]


@pytest.mark.parametrize("name", TINY)
def test_metas_layout_computes_what_meta_computes(name: str, meta_file):
    spec = TINY[name]
    encoder = load_dino(meta_file(name))
    side = spec.train_side or 64
    pixels = torch.randn(2, 3, side, side if spec.train_side else 96, generator=torch.Generator().manual_seed(1))
    tokens = meta_forward(meta_state(spec), spec, pixels)
    hidden = encoder.backbone.hidden(pixels, tuple(range(1, spec.depth + 1)))
    for (patches, cls), want in zip(hidden, tokens, strict=True):
        torch.testing.assert_close(cls, want[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(patches.flatten(1, 2), want[:, spec.prefix :], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_all_layouts_of_the_same_weights_give_the_same_features(name: str, meta_file, tmp_path: Path):
    meta = load_dino(meta_file(name))
    meta.model.save_pretrained(tmp_path / "hub")  # the hub's names; the state dict has those of the classes
    safetensors.torch.save_file(
        {f"dinov2.{key}": value.clone() for key, value in meta.model.state_dict().items()}
        | {"classifier.weight": torch.zeros(2, 4)},
        tmp_path / "wrapped.safetensors",
    )
    pixels, settings = torch.rand(1, 3, 50, 70), EncodeSettings(layers="1,last")
    want = meta.encode(pixels, settings=settings)
    for path in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors", tmp_path / "wrapped.safetensors"):
        got = load_dino(path)
        assert got.spec == TINY[name]
        found, wanted = got.model.state_dict(), meta.model.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
        assert_near(got.encode(pixels, settings=settings).patches, want.patches)
        assert got.fingerprint != meta.fingerprint and re.fullmatch("[0-9a-f]{16}", got.fingerprint)
    assert load_dino(meta_file(name)).fingerprint == meta.fingerprint


@pytest.mark.parametrize(
    "name,biases",
    [(name, biases) for name in TINY for biases in (True, False) if biases or TINY[name].family == "dinov3"],
)
def test_timms_layout_computes_what_meta_computes(name: str, biases: bool, tmp_path: Path, tiny_specs: None):
    """DINOv2 always has biases."""
    spec, state = TINY[name], meta_state(TINY[name])
    for key in state if not biases else ():
        if key.endswith("qkv.bias"):
            state[key].zero_()
    path = tmp_path / "timm.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in timm_state(state, spec, biases=biases).items()}, path)
    encoder, side = load_dino(path), spec.train_side or 64
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    hidden = encoder.backbone.hidden(pixels, tuple(range(1, spec.depth + 1)))
    for (patches, cls), want in zip(hidden, meta_forward(state, spec, pixels), strict=True):
        torch.testing.assert_close(cls, want[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(patches.flatten(1, 2), want[:, spec.prefix :], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "dinov2-demo"])
def test_every_spec_is_detected_in_timms_layout(name: str):
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in meta_shapes(SPECS[name]).items()}
        assert detect_spec(shapes_of(timm_state(state, SPECS[name]))) == SPECS[name]


def test_the_first_tensor_that_no_layout_has_is_named_with_the_layouts(tmp_path: Path):
    path = tmp_path / "odd.safetensors"
    tensors = {"norm.weight": torch.zeros(4), "trunk.0.mixer.in": torch.zeros(1), "zz": torch.zeros(1)}
    safetensors.torch.save_file(tensors, path)
    told = "holds trunk.0.mixer.in, which no layout has.*as transformers, Meta or timm name"
    with pytest.raises(ValueError, match=told):
        load_dino(path)


@pytest.fixture
def shards(tmp_path: Path, tiny_specs: None):
    """A folder that save_pretrained wrote in shards, and the same model in one file."""
    model = random_model(TINY["tiny-v2"])
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    model.save_pretrained(tmp_path / "whole")
    assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 2
    return tmp_path / "shards", tmp_path / "whole"


def test_shards_are_one_model_as_a_folder_and_by_any_of_their_names(shards):
    folder, whole = shards
    wanted, first = load_dino(whole).model.state_dict(), None
    for path in (folder, *sorted(folder.glob("model-*.safetensors"))[:2]):
        loaded = load_dino(path)
        found = loaded.model.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
        first = first or loaded.fingerprint
        assert loaded.fingerprint == first


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is no index of shards"),
        ("[]", "is no index of shards"),
        ('{"weight_map": {"a": 3, "b": "c"}}', "is no index of shards"),
        ('{"weight_map": {"a": 3}}', "needed are .safetensors files beside it"),
        ('{"weight_map": {}}', "needed are .safetensors files beside it"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "names .*secret.* needed are .safetensors files beside it"),
        ('{"weight_map": {"a": "model.bin"}}', "names .*model.bin.* needed are .safetensors files beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "needed is gone.safetensors"),
    ],
)
def test_a_damaged_index_is_one_sentence(index: str, said: str, shards):
    folder, _ = shards
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=said) as error:
        load_dino(folder)
    assert "\n" not in str(error.value)


def test_a_shard_that_is_gone_is_named(shards):
    folder, _ = shards
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=f"there is no file .*{gone.name}"):
        load_dino(folder)


def test_a_loaded_model_is_frozen_in_eval_and_differentiable_even_from_inference_mode(meta_file):
    with torch.inference_mode():
        encoder = load_dino(meta_file("tiny-v3"))
    assert not encoder.model.training
    assert all(not p.requires_grad and not p.is_inference() for p in encoder.model.parameters())
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    patches, _ = encoder.features(pixels, settings=EncodeSettings(side=64))
    patches[0, 0, 0, 0].backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_weights_load_in_the_dtype_asked_for(meta_file):
    encoder = load_dino(meta_file("tiny-v3"), dtype=torch.bfloat16)
    assert {p.dtype for p in encoder.model.parameters()} == {torch.bfloat16}
    assert encoder.model.rope_embeddings.inv_freq.dtype == torch.float32  # positions stay exact
    pixels = torch.rand(1, 3, 64, 64)
    got = encoder.encode(pixels, settings=EncodeSettings())
    want = load_dino(meta_file("tiny-v3")).encode(pixels, settings=EncodeSettings())
    assert got.patches.dtype == torch.float32
    assert torch.cosine_similarity(got.patches, want.patches, dim=-1).min() > 0.99


def test_a_mask_token_may_be_absent(meta_file, tmp_path: Path):
    state = meta_state(TINY["tiny-v2"])
    del state["mask_token"]
    safetensors.torch.save_file(state, tmp_path / "bare.safetensors")
    assert load_dino(tmp_path / "bare.safetensors").spec.name == "tiny-v2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("blocks.2.norm1.bias"), r"1 are missing \(layer.2.norm1.bias\)"),
        (lambda s: s.update({"lora_up.weight": torch.zeros(1)}), r"1 are unexpected \(lora_up.weight\)"),
        (lambda s: s.update({"norm.weight": torch.zeros(3)}), r"1 are misshapen \(norm.weight\)"),
        (lambda s: s.update({"norm.weight": torch.zeros(64, dtype=torch.int8)}), "norm.weight is torch.int8"),
        (lambda s: s.update({"cls_token": torch.zeros(1, 1, 65)}), "no known encoder has family dinov2, width 65"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, said: str, tmp_path: Path, tiny_specs: None):
    state = meta_state(TINY["tiny-v2"])
    change(state)
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=f"^odd.safetensors: .*{said}") as error:
        load_dino(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_is_not_an_encoder_gets_one_clear_sentence(tmp_path: Path):
    whole = safetensors.torch.save(random_model(TINY["tiny-v2"]).state_dict())
    contents = {
        "old.bin": (pickle.dumps({"a": 1}), "old.bin is a pickle"),
        "page.safetensors": (b"<!DOCTYPE html><html>", "page.safetensors starts with b'<!DOCTYPE'"),
        "empty.safetensors": (b"", "is not safetensors"),
        "half.safetensors": (whole[: len(whole) // 2], r"half.safetensors \(\d+ bytes\) is cut short or damaged"),
        "stub.safetensors": (whole[:100], "cut short or damaged"),
        "clip.safetensors": (safetensors.torch.save({"logit_scale": torch.zeros(1)}), "not a DINOv2.*logit_scale"),
        "none.safetensors": (safetensors.torch.save({}), "holds no tensors at all"),
    }
    for name, (content, said) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            load_dino(tmp_path / name)
        assert "\n" not in str(error.value)
    torch.save({"a": torch.zeros(1)}, tmp_path / "new.pth")
    with pytest.raises(ValueError, match="new.pth is a pickle.*get the .safetensors version"):
        load_dino(tmp_path / "new.pth")
    with pytest.raises(ValueError, match="there is no file .*gone.safetensors"):
        load_dino(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="needed is model.safetensors"):
        load_dino(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", (17,)),
        ("pos_embed", (1, 0, 64)),
        ("mask_token", (3,)),
        ("blocks.0.attn.qkv.weight", ()),
        ("blocks.0.attn.qkv.weight", (2, 64)),
        ("blocks.0.mlp.fc2.weight", ()),
        ("patch_embed.proj.weight", (64, 3, 14)),
        ("norm.weight", ()),
        ("register_tokens", (4,)),
    ],
)
def test_tensors_of_wrong_rank_are_one_sentence(name: str, shape, tmp_path: Path, tiny_specs: None):
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file(meta_state(TINY["tiny-v2"]) | {name: torch.zeros(shape)}, path)
    with pytest.raises(ValueError, match="^odd.safetensors: this") as error:
        load_dino(path)
    assert "\n" not in str(error.value) and error.traceback[-1].frame.f_globals["__name__"].startswith("dinotile.")


def test_halves_of_a_gated_mlp_that_do_not_fit_are_one_sentence(tmp_path: Path, tiny_specs: None):
    state = meta_state(TINY["tiny-v2-swiglu"])
    gate, _ = state.pop("blocks.0.mlp.w12.weight").chunk(2)
    state |= {"blocks.0.mlp.w1.weight": gate.clone(), "blocks.0.mlp.w2.weight": torch.zeros(3)}
    safetensors.torch.save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="^odd.safetensors: this (file does not hold|looks like)"):
        load_dino(tmp_path / "odd.safetensors")


def test_an_old_transformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(__version__="4.55.4"))
    with pytest.raises(ValueError, match="transformers 4.55.4 has no DINOv3: install transformers 4.56 or newer"):
        build_model(TINY["tiny-v3"])
