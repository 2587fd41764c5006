"""Where patches come from, and what is left out or refused."""

import numpy as np
import pytest
import torch

from dinotile.dino.encode import EncodeSettings
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute
from dinotile.training.flatdino.name import parse
from dinotile.training.flatdino.patches import EncodedPatches, StoredPatches, split, square
from dinotile.training.flatdino.run import open_patches
from dinotile.training.flatdino.settings import FlatData, FlatTraining, optimisation_of

from ...dino.tiny import tiny_encoder
from ...near import assert_near
from ..pictures import colours, encoded, ramps, write_tar
from .tiny import MAKER, opened, stored


def test_square_grids_of_plain_arrays_are_inferred_and_normalised(tmp_path):
    data = opened(stored(tmp_path, count=3))
    assert (data.made.dino, data.made.how, data.made.width, data.made.grid) == ("dinov2-demo", "4", 128, (4, 4))
    patches = data.batch([0])[0]
    raw = torch.from_numpy(np.load(tmp_path / "000.dinov2_patches.npy")).float()
    assert patches.shape == (1, 4, 4, 128)
    assert torch.allclose(patches[0, 1, 2], torch.nn.functional.layer_norm(raw[6], (128,)), atol=2e-3)


def test_the_form_of_dinov3_in_tars(tmp_path):
    """196 patches of 1024 numbers beside one CLS token; a sample without patches is counted."""
    rng = np.random.default_rng(0)

    def npy(*shape):
        path = tmp_path / "array.npy"
        np.save(path, rng.standard_normal(shape).astype(np.float16))
        return path.read_bytes()

    members = {f"{name}.dinov3_patches.npy": npy(196, 1024) for name in ("a", "b")}
    members = {
        name: content for name, content in sorted({**members, **{f"{n}.dinov3.npy": npy(1024) for n in "abc"}}.items())
    }
    tar = write_tar(tmp_path / "shard.tar", members)
    data = StoredPatches([tar], family="dinov3", encoder="dinov3-large last")
    assert data.made.grid == (14, 14) and data.made.how == "24"
    assert [found is not None for found in data.batch([0, 1, 2])] == [True, True, False]
    assert data.skipped == {"without dinov3_patches.npy": 1}


def test_what_dinotile_features_wrote_is_what_the_encoder_gives(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(colours(56, 56, seed=number)))
    encoder = tiny_encoder("tiny-v2")
    precompute(tmp_path, [DinoRecipe(encoder, EncodeSettings(side=56, layers="3"))])
    kept = StoredPatches([tmp_path], family="dinov2")
    fresh = EncodedPatches([tmp_path], encoder, layers="3", side=56)
    assert kept.made == fresh.made and kept.made.encoder == "tiny-v2-0"
    for one, other in zip(kept.batch([0, 1, 2]), fresh.batch([0, 1, 2]), strict=True):
        assert torch.allclose(one, other, atol=5e-3)
    again = kept.batch([1])[0]
    (tmp_path / "1.dinov2_patches.npy").unlink()
    assert torch.equal(kept.batch([1])[0], again), "it was kept in memory"


def test_an_inner_layer_comes_behind_and_crops_follow_the_draws(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(ramps(80, 60)))
    encoder = tiny_encoder("tiny-v2")
    data = EncodedPatches([tmp_path], encoder, layers="last", side=56, inner="2")
    assert data.made.inner == "2" and data.batch([0])[0].shape == (2, 4, 4, 64)
    one = data.batch([0, 0, 0], [(0.5, 0.1, 0.9, 0.9), (0.5, 0.1, 0.9, 0.9), (0.5, 0.9, 0.1, 0.9)])
    assert torch.equal(one[0], one[1]) and not torch.allclose(one[0], one[2], atol=1e-2)
    alone = EncodedPatches([tmp_path], encoder, layers="2", side=56).batch([0])[0]
    assert_near(data.batch([0])[0][1], alone[0])


def test_an_encoder_whose_weights_are_damaged_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(ramps(80, 60)))
    encoder = tiny_encoder("tiny-v2")
    for parameter in encoder.model.parameters():
        parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match="tiny-v2 gave features that are NaN or infinite"):
        EncodedPatches([tmp_path], encoder, layers="last", side=56)


def test_squares_lie_in_the_picture_and_are_mirrored_by_the_last_draw():
    pixels = torch.rand(3, 40, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(square(pixels, (0, 0.5, 0.5, 0), whole=True), pixels[:, 5:35])
    assert square(pixels, (0.0, 1.0, 1.0, 0.9)).shape == (3, 16, 16) and square(pixels, (1.0, 0, 0, 0.9)).shape == (
        3,
        30,
        30,
    )
    assert torch.equal(square(pixels, (0.0, 1.0, 1.0, 0.9)), pixels[:, -16:, -16:])
    assert torch.equal(square(pixels, (0.0, 1.0, 1.0, 0.4)), pixels[:, -16:, -16:].flip(2))


def damaged(folder, number, patches):
    np.save(folder / f"{number:03d}.dinov2_patches.npy", patches)


def test_nan_other_grids_and_what_is_missing_are_counted(tmp_path):
    stored(tmp_path, count=6)
    damaged(tmp_path, 1, np.full((16, 128), np.nan, np.float16))
    damaged(tmp_path, 2, np.ones((9, 128), np.float16))
    damaged(tmp_path, 3, np.ones((15, 128), np.float16))
    (tmp_path / "004.dinov2_patches.npy").unlink()
    data = opened(tmp_path)
    found = data.batch(range(6))
    assert [patches is not None for patches in found] == [True, False, False, False, False, True]
    assert data.skipped == {
        "with damaged features": 1,
        "with 3 x 3 patches, not 4 x 4": 1,
        "with 15 patches, which are no square": 1,
        "without dinov2_patches.npy": 1,
    }
    assert [numbers for numbers, _ in data.whole(range(6))] == [[0, 5]]


def test_where_nothing_can_be_used_the_reasons_are_told(tmp_path):
    stored(tmp_path, count=2)
    for number in range(2):
        damaged(tmp_path, number, np.full((16, 128), np.inf, np.float16))
    with pytest.raises(ValueError, match="none of the 2 samples can be used: 2 with damaged features; check the data"):
        opened(tmp_path)


def test_features_of_two_encoders_are_refused(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "a.png").write_bytes(encoded(colours(56, 56, seed=seed)))
        precompute(folder, [DinoRecipe(tiny_encoder("tiny-v2", seed=seed), EncodeSettings(side=56, layers="3"))])
    data = StoredPatches([tmp_path / "0", tmp_path / "1"], family="dinov2")
    with pytest.raises(
        ValueError, match=r"a.png has features of tiny-v2 layers 3, 64 wide \(weights tiny-v2-1\), those before"
    ):
        data.batch([1])


def test_some_pictures_are_held_out_and_one_alone_is_refused():
    train, held = split(50, seed=3)
    assert (len(train), len(held)) == (45, 5) and sorted(train + held) == list(range(50))
    assert split(50, seed=3) == (train, held) != split(50, seed=4) and len(split(10_000, seed=0)[1]) == 256
    assert split(2, seed=0)[0] and split(2, seed=0)[1]
    with pytest.raises(ValueError, match="the data has 1 sample, at least 2 are needed"):
        split(1, seed=0)


def test_what_the_settings_refuse(tmp_path):
    with pytest.raises(ValueError, match="--dino and --features are both left out"):
        FlatData(path=("a",))
    with pytest.raises(ValueError, match="--dino and --features are both given"):
        FlatData(path=("a",), dino="x", features="dinov2")
    with pytest.raises(ValueError, match=r"block 2 \(-il2\) is wanted beside the stored layer"):
        open_patches(FlatData(path=("a",), features="dinov2", encoder=MAKER), ["a"], 2, encoder=None)


def test_epochs_become_steps_and_batches_are_divided():
    made = optimisation_of(FlatTraining(batch=512), parse("med-32-sb-128"), pictures=10_000, processes=2)
    assert (made.steps, made.batch, made.accumulation) == (1954, 64, 4) and made.warmup == 97
    made = optimisation_of(FlatTraining(batch=48, gpu_batch=12), parse("fast-32-sb-128"), pictures=10, processes=1)
    assert (made.steps, made.batch, made.accumulation) == (11, 12, 4)
    assert optimisation_of(FlatTraining(steps=7), parse("fast-32-sb-128"), pictures=10, processes=1).steps == 7
    with pytest.raises(
        ValueError, match="batch 10 cannot be divided into 4 rows at once in 1 processes: choose --batch"
    ):
        optimisation_of(FlatTraining(batch=10, gpu_batch=4), parse("fast-32-sb-128"), pictures=10, processes=1)
