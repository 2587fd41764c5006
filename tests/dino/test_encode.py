from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from dinotile.dino.encode import IMAGENET_MEAN, IMAGENET_STD, EncodeSettings
from dinotile.dino.feature_map import Scales
from dinotile.dino.specs import SPECS
from dinotile.files.pixels import resize

from ..near import assert_near
from .tiny import TINY, tiny_encoder


def picture(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def own_tokens(encoder, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """transformers' own outputs of the blocks for pixels that need no resize, normalised without affine."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        states = encoder.model((pixels - mean) / std, output_hidden_states=True).hidden_states
    return tuple(F.layer_norm(state, (encoder.spec.width,)) for state in states)


@pytest.mark.parametrize("name", TINY)
def test_features_are_transformers_own_hidden_states(name: str):
    encoder = tiny_encoder(name)
    spec, p = encoder.spec, encoder.spec.patch
    pixels = picture(3 * p, 5 * p, batch=2)
    states = own_tokens(encoder, pixels)
    for layers, blocks in {"1": [1], "last": [spec.depth], "1,2": [1, 2], "mean": range(1, spec.depth + 1)}.items():
        got = encoder.encode(pixels, settings=EncodeSettings(side=5 * p, layers=layers))
        want = torch.stack([states[block] for block in blocks]).mean(dim=0)
        assert got.patches.shape == (2, 3, 5, spec.width)
        torch.testing.assert_close(got.patches.flatten(1, 2), want[:, spec.prefix :], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.cls, want[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny-v2-reg", "tiny-v3"])
def test_registers_are_no_patches(name: str):
    encoder = tiny_encoder(name)
    settings = EncodeSettings(side=4 * encoder.spec.patch, layers="1")
    pixels = picture(4 * encoder.spec.patch, 4 * encoder.spec.patch)
    seen = []
    encoder.model.embeddings.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    assert encoder.encode(pixels, settings=settings).patches.shape[1:3] == (4, 4)
    assert seen == [16 + 5]


@pytest.mark.parametrize(
    ("name", "layers", "canonical"),
    [
        ("dinov2-base", "2/3", "8"),
        ("dinov2-base", "8", "8"),
        ("dinov2-base", " 12, 3,3 ", "3,12"),
        ("dinov2-base", "last", "12"),
        ("dinov2-base", "mean", "9,10,11,12"),
        ("dinov2-base", "0.5,last", "6,12"),
        ("dinov2-giant", "2/3", "27"),
        ("dinov3-huge-plus", "2/3", "21"),
        ("dinov2-demo", "2/3", "3"),
        ("dinov2-demo", "1/100", "1"),
    ],
)
def test_layers_have_one_canonical_form(name: str, layers: str, canonical: str):
    assert EncodeSettings(layers=layers).canonical(SPECS[name]) == canonical


@pytest.mark.parametrize("layers", ["", "0", "13", "-1", "4/3", "1/0", "9-18", "first", "8,", "nan"])
def test_layers_that_do_not_exist_are_refused_with_the_depth(layers: str):
    with pytest.raises(ValueError, match="dinov2-base, which has blocks 1 to 12: use"):
        EncodeSettings(layers=layers).canonical(SPECS["dinov2-base"])


@pytest.mark.parametrize(
    ("height", "width", "patches"),
    [
        (518, 518, (74, 74)),
        (1000, 2000, (37, 74)),
        (2000, 1000, (74, 37)),
        (100, 1000, (7, 74)),
        (1, 1000, (1, 74)),
        (1, 1, (74, 74)),
        (333, 500, (49, 74)),
    ],
)
def test_sides_stay_proportional(height: int, width: int, patches: tuple[int, int]):
    spec = SPECS["dinov2-base"]
    assert EncodeSettings().size(height, width, spec) == (patches[0] * 14, patches[1] * 14)
    assert max(EncodeSettings(side=520).size(height, width, spec)) == 518


@pytest.mark.parametrize("name", ["tiny-v2", "tiny-v3"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (13, 131), (97, 101), (400, 31)])
@pytest.mark.parametrize("crops", [1, 2])
def test_any_size_and_aspect_encodes(name: str, size: tuple[int, int], crops: int):
    encoder = tiny_encoder(name)
    features = encoder.encode(picture(*size), settings=EncodeSettings(crops=crops))
    height, width = EncodeSettings().size(*size, encoder.spec)
    patch = encoder.spec.patch
    assert features.patches.shape == (1, height // patch * crops, width // patch * crops, 64)
    assert features.image_size == size and features.patches.isfinite().all() and features.cls.isfinite().all()
    assert (features.spec, features.layers) == (name, "3")


def test_a_large_picture_is_averaged_down_not_aliased():
    y, x = torch.meshgrid(torch.arange(96), torch.arange(144), indexing="ij")
    checkers = ((y + x) % 2).float().expand(1, 3, -1, -1)
    small = resize(checkers, height=32, width=48)
    torch.testing.assert_close(small[:, :, 4:-4, 4:-4], torch.full((1, 3, 24, 40), 0.5), atol=0.03, rtol=0)
    assert resize(torch.rand(1, 3, 5, 7).round(), height=64, width=96).aminmax() == (0, 1)  # bicubic overshoots


def test_crops_are_averaged_with_the_whole_picture():
    encoder = tiny_encoder("tiny-v3")
    pixels = picture(64, 96)
    whole = encoder.encode(pixels, settings=EncodeSettings(side=96))
    both = encoder.encode(pixels, settings=EncodeSettings(side=96, crops=2))
    fine = resize(pixels, height=128, width=192)
    corner = encoder.encode(fine[:, :, 64:, :96], settings=EncodeSettings(side=96))  # bottom left
    up = F.interpolate(whole.patches.movedim(3, 1), size=(8, 12), mode="bilinear").movedim(1, 3)
    torch.testing.assert_close(both.patches[:, 4:, :6], (up[:, 4:, :6] + corner.patches) / 2, atol=1e-5, rtol=1e-5)
    assert torch.equal(both.cls, whole.cls)
    with pytest.raises(ValueError, match="crops 3 must be 1"):
        EncodeSettings(crops=3)


def test_scales_that_stay_apart_lie_side_by_side():
    encoder, pixels = tiny_encoder("tiny-v3"), picture(64, 96)
    averaged, apart = (
        encoder.encode(pixels, settings=EncodeSettings(96, "3", 2, scales)) for scales in get_args(Scales)
    )
    whole, near = apart.patches.chunk(2, dim=-1)
    torch.testing.assert_close((whole + near) / 2, averaged.patches)
    assert (whole - near).abs().mean() > 0.1
    corner = encoder.encode(resize(pixels, height=128, width=192)[:, :, 64:, :96], settings=EncodeSettings(96, "3"))
    torch.testing.assert_close(near[:, 4:, :6], corner.patches, atol=1e-5, rtol=1e-5)
    assert apart.cls.shape == (1, 128) and torch.equal(apart.cls[:, :64], averaged.cls)
    assert apart.how == "3 crops 2 apart" and averaged.how == "3 crops 2 averaged"
    for wrong, told in (
        (("3", 1, "apart"), "scales apart with crops 1"),
        (("3", 2, "both"), "scales 'both' must be one of"),
    ):
        with pytest.raises(ValueError, match=told):
            EncodeSettings(96, *wrong)


def test_a_picture_is_encoded_once():
    encoder = tiny_encoder("tiny-v2")
    settings = EncodeSettings()
    batch = picture(40, 60, batch=4)
    first = encoder.encode(batch[:3], settings=settings)
    assert encoder.computed == 3
    again = encoder.encode(batch, settings=settings)
    assert encoder.computed == 4
    assert torch.equal(again.patches[:3], first.patches) and torch.equal(again.cls[:3], first.cls)
    encoder.encode(batch.flip(0).clone(), settings=EncodeSettings(layers="3", side=112))  # the same, spelled out
    assert encoder.computed == 4
    crops = [EncodeSettings(crops=2, scales=scales) for scales in get_args(Scales)]
    for other in (EncodeSettings(layers="1"), EncodeSettings(side=56), *crops):
        before = encoder.computed
        encoder.encode(batch[:1], settings=other)
        assert encoder.computed == before + 1
    encoder.encode(batch[:1].reshape(1, 3, 60, 40), settings=settings)  # the same bytes in another shape
    assert encoder.computed == 9


def test_writing_into_a_result_does_not_reach_the_cache():
    encoder = tiny_encoder("tiny-v2")
    want = encoder.encode(picture(28, 28), settings=EncodeSettings()).patches.clone()
    encoder.encode(picture(28, 28), settings=EncodeSettings()).patches.zero_()
    assert torch.equal(encoder.encode(picture(28, 28), settings=EncodeSettings()).patches, want)


def test_results_do_not_depend_on_the_batch_and_inputs_stay_untouched():
    batch = picture(33, 47, batch=3)
    kept = batch.clone()
    together = tiny_encoder("tiny-v3").encode(batch, settings=EncodeSettings())
    alone = tiny_encoder("tiny-v3").encode(batch[2:], settings=EncodeSettings())
    assert_near(together.patches[2:], alone.patches)
    assert torch.equal(batch, kept)


def test_features_made_in_inference_mode_serve_as_targets_of_a_gradient():
    encoder = tiny_encoder("tiny-v2")
    with torch.inference_mode():
        target = encoder.encode(picture(28, 28), settings=EncodeSettings())
    assert not target.patches.is_inference() and not target.patches.requires_grad
    weight = torch.ones(64, requires_grad=True)
    (target.patches * weight).sum().backward()
    assert weight.grad is not None


def test_the_host_names_the_device_and_the_model_is_never_moved():
    encoder = tiny_encoder("tiny-v2")
    seen = []

    class ElsewhereBackbone:
        """Stands for a model that its host runs on another device than where its weights rest."""

        model, device = encoder.model, torch.device("cpu")

        def hidden(self, pixels: torch.Tensor, blocks: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            seen.append(pixels.device.type)
            return [(torch.randn(1, 8, 8, 64), torch.randn(1, 64)) for _ in blocks]

    encoder.backbone = ElsewhereBackbone()
    encoder.encode(picture(28, 28), settings=EncodeSettings())
    encoder.backbone.device = torch.device("meta")
    features = encoder.encode(picture(29, 29), settings=EncodeSettings())
    assert seen == ["cpu", "meta"] and features.patches.device.type == "cpu"
    assert all(parameter.device.type == "cpu" for parameter in encoder.model.parameters())


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (torch.rand(3, 8, 8), r"shape \[3, 8, 8\], needed is \[B, 3, H, W\]"),
        (torch.rand(1, 4, 8, 8), r"shape \[1, 4, 8, 8\]"),
        (torch.rand(0, 3, 8, 8), "at least one RGB picture"),
        (torch.rand(1, 3, 0, 8), "no side 0"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8, needed is floating point"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN or infinite"),
        (torch.full((1, 3, 8, 8), float("-inf")), "NaN or infinite"),
        (torch.rand(1, 3, 8, 8) * 255, "needed is 0..1: divide 8-bit pictures by 255"),
    ],
)
def test_pixels_that_are_no_pictures_are_refused(pixels: torch.Tensor, said: str):
    encoder = tiny_encoder("tiny-v2")
    with pytest.raises(ValueError, match=said):
        encoder.encode(pixels, settings=EncodeSettings())
    assert encoder.computed == 0


def test_one_nan_among_good_pixels_is_found():
    pixels = picture(8, 8, batch=2)
    pixels[1, 2, 3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        tiny_encoder("tiny-v2").encode(pixels, settings=EncodeSettings())


def test_a_side_below_one_patch_is_refused():
    with pytest.raises(ValueError, match=r"side 13 is below one patch of tiny-v2 \(14 px\): use 0 for 112"):
        tiny_encoder("tiny-v2").encode(picture(8, 8), settings=EncodeSettings(side=13))
