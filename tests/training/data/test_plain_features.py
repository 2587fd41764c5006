"""Features of another maker: dinov3_patches.npy (196, 1024) and dinov3.npy (1024,), without a word about their encoder."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinotile.training.data.availability import availability
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings

from ..pictures import colours, encoded, feature_members, npy, write_tar

NEEDED = ("dinov3-large", "24")


def arrays(*, patches=(196, 1024), width=1024, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dinov3_patches.npy": npy(rng.standard_normal(patches).astype(np.float16)),
        "dinov3.npy": npy(rng.standard_normal(width).astype(np.float16)),
    }


def tar(path, samples):
    members = {f"{name}.{ending}": content for name, files in samples.items() for ending, content in files.items()}
    return write_tar(path, members)


def opened(path, *, needed=NEEDED, encoder="dinov3-large last", features="dinov3"):
    settings = DataSettings(path=str(path), picture=32, tile=32, features=features, encoder=encoder)
    return open_data(settings, needs_features=needed, encoder="weights")


def draw(data, index):
    return data.get(index, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def shard(tmp_path):
    picture = {"jpg": encoded(colours(56, 56), "JPEG"), "txt": b"words"}
    return tar(
        tmp_path / "train.tar",
        {
            "a": picture | arrays(),
            "b": picture,
            "c": picture | arrays(patches=(195, 1024)),
            "d": picture | arrays(patches=(14, 14, 1024)),
            "e": picture | arrays(width=768),
            "f": picture | {"dinov3_patches.npy": arrays()["dinov3_patches.npy"]},
        },
    )


def test_plain_arrays_are_features_of_the_encoder_that_the_configuration_names(shard):
    data = opened(shard)
    found = [draw(data, index) for index in range(6)]
    assert [sample is not None for sample in found] == [True, False, False, True, False, False]
    features = found[0].features
    assert features.patches.shape == (1, 14, 14, 1024) and features.cls.shape == (1, 1024)
    assert (features.spec, features.layers, features.image_size) == (*NEEDED, (56, 56))
    array = torch.from_numpy(np.random.default_rng(0).standard_normal((196, 1024)).astype(np.float16)).float()
    assert torch.equal(features.patches[0, 1, 0], F.layer_norm(array, (1024,))[14])
    assert data.skipped == {
        "without dinov3_patches.npy, dinov3.npy": 1,
        "with 195 patches, which are no square": 1,
        "with damaged features": 1,
        "without dinov3.npy": 1,
    }


def test_without_an_encoder_in_the_configuration_plain_arrays_do_not_count(shard):
    with pytest.raises(ValueError, match="none of the 6 samples .*without dinov3_cls.npy, dinov3.json"):
        opened(shard, encoder="")


@pytest.mark.parametrize(
    ("encoder", "features", "said"),
    [
        ("dinov3-large 12", "dinov3", "data.encoder says that dinov3-large layers 12 made .* dinov3-large layers 24"),
        ("dinov3-base last", "dinov3", "dinov3-base layers 12 made .* dinov3-large layers 24: set model.dino"),
        ("dinov9", "dinov3", "data.encoder is 'dinov9', needed is one of dinov2-small, "),
        ("dinov3-large", "dinov3", 'layers "" is not in dinov3-large'),
        ("dinov3-large last", "", "data.encoder says what made data.features, and they are not named"),
    ],
)
def test_another_encoder_than_the_runs_is_refused(shard, encoder, features, said):
    with pytest.raises(ValueError, match=said):
        opened(shard, encoder=encoder, features=features)


def test_arrays_of_another_width_than_the_encoders_are_refused(tmp_path):
    picture = {"jpg": encoded(colours(56, 56), "JPEG")}
    shard = tar(tmp_path / "t.tar", {"a": picture | arrays(patches=(196, 768), width=768)})
    with pytest.raises(ValueError, match="t/a has features 768 wide, those of dinov3-large are 1024 wide"):
        opened(shard)


def test_features_that_say_what_made_them_are_still_checked(tmp_path):
    picture = encoded(colours(56, 56))
    with torch.no_grad():
        features = draw(opened(tar(tmp_path / "t.tar", {"a": {"png": picture} | arrays()})), 0).features
    files = feature_members(features, picture, spec="dinov3-base")
    shard = tar(tmp_path / "own.tar", {"a": {"png": picture, **files}})
    with pytest.raises(ValueError, match="own/a has features of dinov3-base layers 24"):
        opened(shard)


def test_a_folder_has_them_too(tmp_path):
    for name, content in ({"png": encoded(colours(56, 56))} | arrays()).items():
        (tmp_path / f"a.{name}").write_bytes(content)
    assert draw(opened(tmp_path), 0).features.patches.shape == (1, 14, 14, 1024)


def test_the_check_counts_what_training_would_find(shard, tmp_path):
    found = availability(shard)
    assert (found.samples, found.plain) == (6, 2)
    assert {report.name: report.kept for report in found.reports} == {
        "picture": 6,
        "dinov2": 0,
        "dinov3": 2,
        "caption": 6,
        "text": 0,
    }
    (tmp_path / "broken.png").write_bytes(bytes(500))
    (tmp_path / "whole.png").write_bytes(encoded(colours(56, 56)))
    picture = availability(tmp_path).reports[0]
    assert picture.kept == 1 and picture.skipped == {"unreadable picture": 1}
    dinov3 = next(report for report in found.reports if report.name == "dinov3")
    assert dinov3.skipped["without dinov3_patches.npy, dinov3.npy"] == 1 and dinov3.skipped.total() == 4


def test_the_command_counts_training_and_validation_sets_apart(shard, tmp_path, dinotile):
    picture = {"jpg": encoded(colours(56, 56), "JPEG")}
    validation = tar(tmp_path / "validation.tar", {"a": picture | arrays(), "b": picture})
    code, out, _ = dinotile("features", shard, validation, "--check")
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"{shard}: 6 samples" and f"{validation}: 2 samples" in lines
    assert "  picture: 6" in lines and "  dinov3: 1, 1 without (1 without dinov3_patches.npy, dinov3.npy)" in lines
    assert "  2 features do not say what made them: name that in data.encoder" in lines
    code, _, err = dinotile("features", tmp_path / "none.tar", "--check")
    assert code == 2 and "there is no data at" in err


@pytest.mark.parametrize(
    "options, said",
    [
        (("--check", "--dino", "x"), "dino acts without check only: see to that, or leave dino out"),
        (("--check", "--degrade"), "degrade acts without check only"),
        (("--check", "-o", "out"), "output acts without check only"),
        (("--dino", "x", "--mask-padding"), "mask_padding acts with text only"),
        (("--dino", "x", "--text-tokens", 512), "text_tokens acts with text only"),
        (("--text", "x", "--side", 518), "side acts with dino only"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, dinotile, options, said):
    code, _, err = dinotile("features", tmp_path, *options)
    assert code == 2 and err.startswith(f"dinotile: {said}") and err.count("\n") == 1
