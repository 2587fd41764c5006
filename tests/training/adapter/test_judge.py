import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dinotile.dino.encode import normalise
from dinotile.dino.load import load_dino
from dinotile.dino.specs import SPECS
from dinotile.training.adapter.config import config_from
from dinotile.training.adapter.dry_run import dry_run
from dinotile.training.adapter.judge import load_judge
from dinotile.training.adapter.run import train
from dinotile.training.core.monitor import read_log

from ...dino.tiny import meta_state, random_model, timm_state
from ...tiny import picture
from ..tiny import picture_folder, write_models
from .vgg import vgg, write_vgg

SPEC = SPECS["dinov2-demo"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small models with the DINO that guides, seed 0; and networks that may judge, and may not."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    guide = random_model(SPEC).state_dict()
    save_file(random_model(SPEC, seed=1).state_dict(), folder / "other-dino.safetensors")
    save_file(guide, folder / "copy.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in guide.items()}, folder / "half.safetensors")
    save_file(meta_state(SPEC), folder / "meta.safetensors")
    save_file(timm_state(meta_state(SPEC), SPEC), folder / "timm.safetensors")
    save_file({"weight": torch.zeros(2)}, folder / "unfit.safetensors")
    save_file({name: tensor.int() for name, tensor in vgg().state_dict().items()}, folder / "integers.safetensors")
    torch.save(vgg().state_dict(), folder / "vgg.pth")
    write_vgg(folder / "vgg.safetensors")
    write_vgg(folder / "vgg-bn.safetensors", norms=True)
    return folder


def judge_of(files, name, guide="dino.safetensors"):
    return load_judge(str(files / name), guide=files / guide, device=CPU)


@pytest.mark.parametrize("name", ["vgg.safetensors", "other-dino.safetensors"])
def test_a_distance_is_zero_for_the_truth_and_grows_with_damage(files, name):
    generator = torch.Generator().manual_seed(0)
    truth = (picture(64, 96)[0] + 0.2 * torch.randn(3, 64, 96, generator=generator)).clamp(0, 1)
    small = [F.interpolate(truth[None], scale_factor=1 / scale, mode="area") for scale in (2, 4, 8)]
    enlarged = [F.interpolate(each, size=(64, 96), mode="bilinear")[0] for each in small]
    noise = torch.randn(truth.shape, generator=generator)
    noisy = [(truth + size * noise).clamp(0, 1) for size in (0.02, 0.1, 0.4)]
    judge = judge_of(files, name)
    for damaged in (enlarged, noisy):
        nothing, *distances = judge.distances([truth, *damaged], truth)
        assert nothing == 0 and 1e-4 < distances[0] < distances[1] < distances[2]


def test_a_vgg_judges_pictures_of_a_few_px_and_none_with_weights_that_are_not_finite(files, tmp_path):
    truth = picture(8, 12)[0]
    assert judge_of(files, "vgg.safetensors").distances([truth, 1 - truth], truth)[1] > 0
    broken = vgg().state_dict()
    broken["features.0.bias"][0] = torch.nan
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="broken.safetensors holds numbers that are not finite"):
        judge_of(files, tmp_path / "broken.safetensors")


def test_a_vgg_is_compared_after_each_of_its_stages_in_the_form_of_lpips(files):
    features, pair = vgg()["features"], picture(32, 48, batch=2)
    expected, x, stages = 0.0, normalise(pair), 0
    for layer in features:
        if isinstance(layer, torch.nn.MaxPool2d):
            one, two = x / x.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
            expected += float((one - two).square().sum(0).mean())
            stages += 1
        x = layer(x)
    (found,) = judge_of(files, "vgg.safetensors").distances([pair[0]], pair[1])
    assert stages == 5 and found == pytest.approx(expected, rel=1e-5)


def test_a_dino_is_compared_after_each_quarter_of_its_blocks(files):
    encoder, pair = load_dino(files / "other-dino.safetensors"), picture(56, 84, batch=2)
    expected = 0.0
    for patches, _ in encoder.backbone.hidden(normalise(pair), (1, 2, 3, 4)):
        one, two = F.normalize(patches - patches.mean(-1, keepdim=True), dim=-1)
        expected += float((one - two).square().sum(-1).mean())
    (found,) = judge_of(files, "other-dino.safetensors").distances([pair[0]], pair[1])
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("guide", "name"),
    [
        ("dino.safetensors", "dino.safetensors"),
        ("dino.safetensors", "copy.safetensors"),
        ("dino.safetensors", "half.safetensors"),
        ("meta.safetensors", "timm.safetensors"),
    ],
)
def test_the_encoder_that_guides_is_refused_in_every_file_that_holds_it(files, guide, name):
    with pytest.raises(ValueError, match=f"{name} is the DINO that guides, {guide}, .*name a VGG or another DINO"):
        judge_of(files, name, guide)


def test_another_encoder_of_the_same_size_may_judge(files):
    judge = judge_of(files, "meta.safetensors")
    assert judge.parameters == sum(map(torch.numel, random_model(SPEC).parameters()))
    assert judge_of(files, "vgg.safetensors").parameters == sum(map(torch.numel, vgg()["features"].parameters()))


REFUSED = {
    "none.safetensors": "output.judge: there is no file .*none.safetensors, needed is a .safetensors file: check the path",
    "vgg.pth": "output.judge: vgg.pth is a pickle .*, only safetensors is read",
    "integers.safetensors": "output.judge: integers.safetensors holds .* needed are floating point weights",
    "unfit.safetensors": "output.judge: unfit.safetensors: this is not a DINO.*choose such a file, or a VGG without batch",
    "vgg-bn.safetensors": "output.judge: vgg-bn.safetensors: this is not a DINO.*or a VGG without batch normalisation",
    "dino.safetensors": "output.judge .*dino.safetensors is the DINO that guides.* leave it out",
}


def config_with(files, tmp_path, judge):
    data = picture_folder(tmp_path / "data", count=2)
    return config_from(
        {
            "model": {"device": "cpu", "model_path": str(files), "dino": str(files / "dino.safetensors")},
            "adapter": {"width": 16, "grid": 4},
            "data": {"path": str(data), "picture": 48, "tile": 32, "encoded": str(tmp_path / "encoded")},
            "optimisation": {"steps": 2, "batch": 2},
            "output": {
                "folder": str(tmp_path / "run"),
                "sample_every": 2,
                "validation_pictures": 2,
                "tensorboard": False,
                "judge": judge,
            },
        }
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_judge_is_told_in_one_sentence_before_anything_is_written(files, tmp_path, name):
    config = config_with(files, tmp_path, str(files / name))
    for begin in (dry_run, train):
        with pytest.raises(ValueError, match=REFUSED[name]) as told:
            begin(config)
        assert "\n" not in str(told.value)
    assert [place.name for place in tmp_path.iterdir()] == ["data"]


def test_a_training_that_names_a_judge_logs_its_distances_and_a_dry_run_counts_its_memory(files, tmp_path):
    config = config_with(files, tmp_path, str(files / "vgg.safetensors"))
    assert dry_run(config).memory["judge"] == 4 * sum(map(torch.numel, vgg()["features"].parameters()))
    train(config)
    (line,) = (line for line in read_log(tmp_path / "run") if "validation" in line)
    assert line["step"] == 2 and all(0 < value < 10 for value in line["validation"]["distance"].values())
