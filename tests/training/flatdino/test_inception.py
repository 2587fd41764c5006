"""FID: the network's features and the distance are those of who reports it, and ``evaluate --inception`` tells them."""

import io
import json
import math
import sys

import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from dinotile import demo
from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.dit import DitConfig, new_dit
from dinotile.dino.compress.generator import load_generator, save_generator
from dinotile.dino.compress.model import new_flat
from dinotile.dino.compress.pixels import PixelConfig, load_pixels, new_pixels, save_pixels
from dinotile.dino.compress.statistics import Statistics
from dinotile.dino.load import load_dino
from dinotile.training.flatdino.fidelity import made_up, pixel_score
from dinotile.training.flatdino.frechet import frechet
from dinotile.training.flatdino.inception import CLASSES, WIDTH, load_inception
from dinotile.training.flatdino.name import parse
from dinotile.training.flatdino.patches import EncodedPatches

from .weights import inception_weights, picture, write_inception

CPU = torch.device("cpu")
GRID = 4  # patches of a side
# torch-fidelity 0.4's FeatureExtractorInceptionV3 of picture(), with inception_weights(): every 400th number, mean, deviation
KNOWN = [0.0, 0.2189865, 0.2363530, 0.5851482, 0.0175100, 1.1350665, 2.0362, 2.8394]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "inception.safetensors")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with all that draws two pictures."""
    place = tmp_path_factory.mktemp("drawn")
    config = parse("fast-6-pp-16").config(dino="dinov2-demo", width=128, how="4", grid=(GRID, GRID))
    save_flat(new_flat(config), place / "flat.safetensors")
    flat = load_flat(place / "flat.safetensors").fingerprint
    save_pixels(new_pixels(PixelConfig(flat, (GRID, GRID), 128, 8, "p")), place / "pixels.safetensors")
    plain = Statistics(torch.zeros(6, 16), torch.ones(6, 16), 2)
    save_generator(new_dit(DitConfig(flat, 6, 16, "p")), place / "generator.safetensors", statistics=plain)
    (place / "data").mkdir()
    for number in range(2):
        pixels = picture(height=32, width=32, number=number)[0].movedim(0, 2).numpy()
        Image.fromarray(pixels).save(place / "data" / f"{number}.png")
    return place


def test_features_are_those_of_the_network_that_fid_is_reported_with(weights):
    with torch.no_grad():
        (found,) = load_inception(weights)(picture() / 255)
    told = [*found[::400].tolist(), float(found.mean()), float(found.std())]
    assert found.shape == (WIDTH,) and told == pytest.approx(KNOWN, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("counts", [(40, 30), (7, 12)])  # more and fewer than numbers
def test_the_distance_is_torchmetrics_own(counts):
    draws = torch.Generator().manual_seed(0)
    ones, others = (torch.randn(count, 16, generator=draws).double() * (1 + count / 20) for count in counts)
    judge = nn.Identity()
    judge.num_features = 16  # type: ignore[assignment]
    theirs = FrechetInceptionDistance(feature=judge)
    theirs.update(ones, real=True)
    theirs.update(others + 0.5, real=False)
    assert frechet(ones, others + 0.5) == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert frechet(ones, ones) == pytest.approx(0, abs=1e-9)


def test_with_torch_fidelity_at_hand_fid_is_its_own(weights):
    """Where it is installed, with torchvision: on whole sets of pictures, through all that torchmetrics does."""
    pytest.importorskip("torch_fidelity")
    file = io.BytesIO()
    torch.save({name: tensor.float() if tensor.ndim else tensor for name, tensor in inception_weights().items()}, file)
    file.seek(0)
    theirs = FrechetInceptionDistance(feature=WIDTH, feature_extractor_weights_path=file, antialias=False)  # type: ignore[arg-type]
    sets = [torch.cat([picture(number=number) for number in range(first, first + 3)]) for first in (0, 3)]
    theirs.update(sets[0], real=True)
    theirs.update(sets[1], real=False)
    with torch.no_grad():
        ours = [load_inception(weights)(pixels / 255) for pixels in sets]
    assert frechet(*ours) == pytest.approx(float(theirs.compute()), rel=1e-3)


class Colours(nn.Module):
    """A judge in Inception's place who is quick: means of the quarters of a picture."""

    def forward(self, pixels):
        return nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)


def test_rfid_is_of_what_is_drawn_and_gfid_of_samples(drawn):
    flat, encoder = load_flat(drawn / "flat.safetensors"), load_dino(demo.DINO)
    decoder = load_pixels(drawn / "pixels.safetensors", flat=flat.fingerprint)
    made = load_generator(drawn / "generator.safetensors", flat=flat.fingerprint)
    data = EncodedPatches([drawn / "data"], encoder, layers="last", side=GRID * 14)
    told = pixel_score(flat, decoder, data, device=CPU, generator=made, inception=Colours())  # type: ignore[arg-type]
    true = torch.cat([picture(height=32, width=32, number=number) for number in range(2)]) / 255
    (latents,) = made_up(made, 2, guidance=1.0, device=CPU)
    with torch.no_grad():
        patches = torch.stack([each[0] for each in data.batch([0, 1])])
        for value, restored in ((told.rfid, flat.module.encode(patches)), (told.gfid, latents)):
            pixels = decoder(flat.module.decode(restored)).clamp(0, 1)
            assert value == pytest.approx(frechet(Colours()(true), Colours()(pixels)), rel=1e-4) and value > 0
    assert told.rfid != pytest.approx(told.gfid, rel=1e-3)
    with pytest.raises(ValueError, match="with guidance inf samples are NaN or infinite: usually it is 1 to 4"):
        list(made_up(made, 2, guidance=math.inf, device=CPU))


def test_evaluate_tells_rfid(weights, drawn, tmp_path, dinotile):
    judge = ("flatdino", "evaluate", drawn / "flat.safetensors", drawn / "data", "--dino", demo.DINO, "--device", "cpu")
    asked = ("--side", GRID * 14, "--pixels", drawn / "pixels.safetensors", "--inception", weights)
    code, out, err = dinotile(*judge, *asked, "-o", tmp_path / "numbers.json")
    assert code == 0 and "rFID: " in out and "by Inception; of fewer than 2048 pictures" in out, err
    *_, told = json.loads((tmp_path / "numbers.json").read_text())
    assert told["rfid"] > 0 and "gfid" not in told and f"rFID: {told['rfid']:.2f}" in out


def test_other_files_and_too_few_pictures_are_one_sentence(weights, drawn, tmp_path, dinotile, monkeypatch):
    judge = ("flatdino", "evaluate", drawn / "flat.safetensors")
    told = ("--dino", demo.DINO, "--device", "cpu", "--side", GRID * 14)
    pixels = ("--pixels", drawn / "pixels.safetensors")
    later = write_inception(tmp_path / "later.safetensors", **{"fc.weight": torch.zeros(CLASSES - 8, WIDTH)})
    damaged = torch.full((32, 3, 3, 3), float("nan"))
    broken = write_inception(tmp_path / "broken.safetensors", **{"Conv2d_1a_3x3.conv.weight": damaged})
    torch.save({}, tmp_path / "weights.pth")
    for path, said in (
        (
            later,
            "later.safetensors is not the Inception of FID (fc.weight has shape [1000, 2048], needed is [1008, 2048]; ",
        ),
        (demo.DINO, "(Conv2d_1a_3x3.conv.weight is missing, needed is [32, 3, 3, 3], and "),
        (broken, "holds numbers that are not finite (Conv2d_1a_3x3.conv.weight)"),
        (tmp_path / "weights.pth", "weights.pth is a pickle"),
        (tmp_path / "none.safetensors", "there is no file"),
    ):
        code, _, err = dinotile(*judge, drawn / "data", *told, *pixels, "--inception", path)
        assert code == 2 and said in err and err.count("\n") == 1, err
    code, _, err = dinotile(*judge, drawn / "data", *told, "--inception", weights)
    assert code == 2 and "--inception judges pictures, and what draws them is left out: give --pixels" in err
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "0.png").write_bytes((drawn / "data" / "0.png").read_bytes())
    code, _, err = dinotile(*judge, alone, *told, *pixels, "--inception", weights)
    assert code == 2 and "1 pictures can be used, at least 2 are needed: give more" in err and err.count("\n") == 1, err
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    flat = load_flat(drawn / "flat.safetensors")
    data = EncodedPatches([drawn / "data"], load_dino(demo.DINO), layers="last", side=GRID * 14)
    decoder = load_pixels(drawn / "pixels.safetensors", flat=flat.fingerprint)
    with pytest.raises(
        ValueError, match=r'need torchmetrics, which is not installed: pip install "dinotile\[flatdino\]"'
    ):
        pixel_score(flat, decoder, data, device=CPU, inception=load_inception(weights))
