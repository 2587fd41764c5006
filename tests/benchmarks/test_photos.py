"""The table of photographs: whose rows there are, what is compared with what, and the reader of ncnn's files."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

for package in ("scipy", "skimage", "torchmetrics"):
    pytest.importorskip(package)

from benchmarks.figures import interval  # noqa: E402
from benchmarks.guidance.photos import SPOILS, shrunk  # noqa: E402
from benchmarks.photos import ncnn, table  # noqa: E402
from benchmarks.photos.rows import COMPACT, rows  # noqa: E402
from dinotile.hosts.diffusers.compact import Compact  # noqa: E402
from dinotile.hosts.diffusers.upscale_model import load_upscale_model  # noqa: E402

from ..tiny import picture  # noqa: E402


def network(*, seed=0):
    torch.manual_seed(seed)
    return Compact(width=5, convs=2, scale=2)


def as_ncnn(model, *, halves):
    """A .param and a .bin, as the survey of such files found them."""
    lines, content = ["7767517", "9 9", "Input input.1 0 1 data"], b""
    for index, layer in enumerate(model.body):
        weight = layer.weight.detach().numpy()
        if weight.ndim == 1:
            lines.append(f"PReLU PRelu_{index} 1 1 a b 0={len(weight)}")
            content += weight.astype(np.float32).tobytes()
            continue
        lines.append(f"Convolution Conv_{index} 1 1 a b 0={len(weight)} 1=3 4=1 5=1 6={weight.size}")
        kind = np.float16 if halves else np.float32
        numbers = weight.astype(kind).tobytes()
        content += np.uint32(ncnn.HALVES if halves else 0).tobytes() + numbers + b"\0" * (-len(numbers) % 4)
        content += layer.bias.detach().numpy().tobytes()
    return "\n".join([*lines, "PixelShuffle DepthToSpace 1 1 a b 0=2", "Interp Resize 1 1 a b 0=1 1=2.0e+00"]), content


@pytest.mark.parametrize("halves", [False, True])
def test_ncnns_files_become_the_network_that_they_hold(tmp_path, halves):
    """5 x 3 x 9 halves do not fill whole words: what comes behind must not be shifted."""
    model = network()
    param, content = as_ncnn(model, halves=halves)
    save_file(ncnn.read_ncnn(param, content), tmp_path / "up.safetensors")
    found, pixels = load_upscale_model(tmp_path / "up.safetensors"), picture(6, 8)
    wanted = model(pixels).clamp(0, 1)
    assert (found.call(pixels) - wanted).abs().max() < (2e-3 if halves else 1e-6)
    with pytest.raises(
        ValueError, match=f"has {len(content) - 4} bytes, the .param file tells of {len(content)}|buffer"
    ):
        ncnn.read_ncnn(param, content[:-4])
    with pytest.raises(ValueError, match=f"has {len(content) + 4} bytes, the .param file tells of {len(content)}"):
        ncnn.read_ncnn(param, content + b"\0" * 4)


def test_rows_have_names_of_their_own_and_compact_only_where_it_is():
    with_compact, without = rows(compact=True), rows(compact=False)
    for each in (with_compact, without):
        assert len({row.name for row in each}) == len(each)
    assert {row.name for row in with_compact} - {row.name for row in without} == {
        COMPACT,
        f"{COMPACT}, back-projection",
    }
    assert sum(row.baseline for row in without) == 4


def test_an_interval_is_students():
    assert interval(torch.tensor([1.0, 2.0, 3.0]).double()) == pytest.approx((2.0, 4.3027 / 3**0.5), abs=1e-4)


def record(row, picture, psnr, photo, *, baseline=True):
    case = {"scale": 2, "spoilt": "", "picture": picture, "row": row, "baseline": baseline, "seconds": 0.5}
    return {**case, "PSNR": psnr, "photo net": photo}


def test_differences_are_paired_and_to_the_strongest_row_without_flux():
    """FLUX's row is the best of all, and still not what it is compared with; a distance is best where it is least."""
    values = {"bicubic": (30, 32, 0.5), "other": (31, 35, 0.6), "demo": (32, 37, 0.1)}
    records = [
        record(row, name, psnr, photo, baseline=row != "demo")
        for row, (one, two, photo) in values.items()
        for name, psnr in (("a", one), ("b", two))
    ]
    text = table.markdown(records)
    assert "PSNR other, photo net bicubic." in text
    line = next(line for line in text.splitlines() if line.startswith("| demo "))
    assert line.split(" | ")[2] == "+1.5 \u00b1 6"  # of +1 and +2
    assert line.split(" | ")[4] == "-0.4 \u00b1 0"


def test_blurred_sources_are_softer_and_shrunk_ones_smaller():
    truth = picture(32, 48)
    source = shrunk(truth, 4)
    assert source.shape == (1, 3, 8, 12)
    assert SPOILS["blur"](source).diff(dim=3).abs().mean() < 0.9 * source.diff(dim=3).abs().mean()


def test_the_table_runs_from_one_command(tmp_path, monkeypatch, capsys):
    save_file(network().state_dict(), tmp_path / "compact.safetensors")
    arguments = ["--pictures", "2", "--scales", "2", "--judges", "PSNR", "SSIM", "--plain"]
    arguments += ["--compact", str(tmp_path / "compact.safetensors"), "-o", str(tmp_path / "photos.json")]
    monkeypatch.setattr(sys, "argv", ["table.py", *arguments])
    monkeypatch.setattr(sys, "orig_argv", ["python", "table.py", *arguments])
    table.main()
    found = json.loads((tmp_path / "photos.json").read_text())
    assert str(tmp_path) not in found["about"]["command"] and "--compact COMPACT" in found["about"]["command"]
    assert [each["row"] for each in found["photographs"][:6]] == [
        row.name for row in rows(compact=True) if row.baseline
    ]
    psnr = {each["row"]: each["PSNR"] for each in found["photographs"] if each["picture"] == "skimage chelsea"}
    assert psnr["own upscaler"] > psnr["bicubic"] + 0.5 and psnr["bicubic, back-projection"] > psnr["bicubic"]
    assert psnr[f"{COMPACT}, back-projection"] > psnr[COMPACT]  # random weights
    assert "### 2x (2 photographs)" in capsys.readouterr().out


def test_a_row_of_the_demo_takes_its_own_enlargement(monkeypatch):
    """The one upscaler serves all rows; what it enlarged by last must not stay."""
    seen = []

    class Noting:
        upscale_model = None

        def upscale(self, source, settings):
            seen.append(
                (self.upscale_model, settings.denoise, settings.vae_detail, settings.dino_strength, settings.anchor)
            )
            return (source,)

    model, upscaler = object(), Noting()
    for row in rows(compact=False)[4:]:
        table.drawn(row, picture(8, 8), model if row.enlarged == "own upscaler" else None, upscaler, scale=2, seed=0)
    assert [each[0] is model for each in seen] == [True] * 7 + [False] * 7
    assert seen[0][1:] == (0.3, 1.0, 1.0, 0.0) and seen[6][1:] == (0.3, 0.0, 1.0, 0.0)
    assert seen[1][3] == 0.0 and seen[2][4] == 1.0 and seen[3][1] == 0.5
