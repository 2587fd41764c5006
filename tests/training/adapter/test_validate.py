from dataclasses import replace

import pytest
import torch
from PIL import Image

from dinotile.training.adapter.judge import load_judge
from dinotile.training.adapter.sheet import draw_sheet, redraw
from dinotile.training.adapter.validate import MODES
from dinotile.training.core.monitor import read_log

from ...near import assert_near
from ..tiny import SIDE, picture_folder, run, settings, tiny_trainer, with_texts, write_models
from .vgg import write_vgg

ALL = ("cross_attention", "context", "vector")
SEES_OWN_FEATURES, SEES_OWN_TEXT = {"own", "dino", "retold"}, {"own", "swap", "text"}


def validated(trainer):
    with trainer.average.in_place():
        return trainer.task.validate()


def moved(trainer):
    """As if it had learned something."""
    with torch.no_grad():
        for average in trainer.average.weights.values():
            average.add_(0.1)
    return trainer


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A folder of three pictures that bring texts."""
    return with_texts(picture_folder(tmp_path_factory.mktemp("told"), count=3))


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A small VGG, and a DINO file that guides."""
    folder = tmp_path_factory.mktemp("judges")
    write_models(folder)
    place = write_vgg(folder / "vgg.safetensors")
    return load_judge(str(place), guide=folder / "dino.safetensors", device=torch.device("cpu"))


def test_validation_compares_conditions_on_the_same_noise(pictures):
    trainer = tiny_trainer(settings(pictures, output={"validation_pictures": 4}))
    first = validated(trainer)
    assert first == validated(trainer) and list(first) == list(MODES)
    assert len(set(first.values())) == 1, "a fresh adapter is the same under every condition of data without text"
    found = validated(moved(trainer))
    assert found["own"] == found["dino"] == found["retold"] and found["text"] == found["none"]
    assert len({found["own"], found["swap"], found["text"], first["own"]}) == 4


def test_validation_takes_the_learned_guidance_off(pictures):
    found = {}
    for guidance in (1.0, 2.0):
        conditions, output = {"dino_guidance": guidance}, {"validation_pictures": 4}
        found[guidance] = validated(moved(tiny_trainer(settings(pictures, conditions=conditions, output=output))))
    for condition, plain in found[1.0].items():
        assert (found[2.0][condition] == pytest.approx(plain, rel=1e-6)) == (condition in ("text", "none")), condition


def test_validation_pictures_are_held_out_where_there_are_enough(pictures):
    output = {"validation_pictures": 3, "validate_every": 1}
    trainer = tiny_trainer(settings(pictures, output=output))
    task = trainer.task
    assert task.count == 9
    assert {picture.encoded.name for picture in task.validation.pictures()} == set(task.data.names[-3:])
    assert {row.picture for row in task.rows(range(60), step=0, total=60)} == set(task.data.names[:9])
    few = tiny_trainer(settings(pictures, output={**output, "validation_pictures": 4}))
    assert few.task.count == 12 - 4 * (12 >= 16)


def test_too_few_pictures_to_validate_are_told_before_the_first_step(tmp_path):
    folder = picture_folder(tmp_path / "pictures", count=1)
    trainer = tiny_trainer(settings(folder, output={"folder": str(tmp_path / "run"), "validate_every": 5}))
    with pytest.raises(ValueError, match="1 of the last 1 pictures can be used, validation needs 2"):
        run(trainer)
    assert trainer.done == 0 and not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def shown(told):
    """Of two pictures and a third that lends its conditions: a validation, and what it redraws and loses."""
    trainer = tiny_trainer(settings(told, output={"validation_pictures": 3}), mechanisms=ALL)
    validation = moved(trainer).task.validation
    own, other, third = validation.pictures()

    def redrawn_and_losses(pair):
        validation._pictures = pair
        with trainer.average.in_place(), torch.no_grad():
            redrawn = {mode: redraw(validation, own.source, validation.seen(0, mode)) for mode in MODES}
            return redrawn, validation.losses()

    return (own, other, third), redrawn_and_losses, redrawn_and_losses([own, other])


@pytest.mark.parametrize(
    ("whose", "what", "followed_by"),
    [
        ("own", "features", SEES_OWN_FEATURES),
        ("own", "text", SEES_OWN_TEXT),
        ("other", "features", {"swap"}),
        ("other", "text", {"retold"}),
    ],
)
def test_each_mode_follows_the_conditions_that_it_names_and_no_others(shown, whose, what, followed_by):
    """In what is redrawn and in what the loss sees, with two pictures and a third that lends its conditions."""
    (own, other, third), redrawn_and_losses, before = shown
    changed = own if whose == "own" else other
    lent = replace(changed, encoded=replace(changed.encoded, **{what: getattr(third.encoded, what)}))
    after = redrawn_and_losses([lent, other] if whose == "own" else [own, lent])
    for mode in MODES:
        assert torch.equal(before[0][mode], after[0][mode]) == (mode not in followed_by), mode
    assert all(before[1][mode] != after[1][mode] for mode in followed_by)
    if what == "features":
        assert all(before[1][mode] == after[1][mode] for mode in ("text", "none"))
    else:
        assert all(before[1][mode] == after[1][mode] for mode in ("dino", "none"))


def test_a_retold_picture_takes_the_next_text_that_there_is(told, tmp_path):
    folder = picture_folder(tmp_path / "some", count=4)
    for ending in ("t5.npy", "clip.npy"):
        for number in (0, 3):
            (folder / f"{number:02d}.{ending}").write_bytes((told / f"{number % 2:02d}.{ending}").read_bytes())
    validation = tiny_trainer(settings(folder, output={"validation_pictures": 4})).task.validation
    texts = [picture.encoded.text.context for picture in validation.pictures()]
    for i, wanted in enumerate((3, 3, 3, 0)):
        seen = validation.seen(i, "retold")
        assert torch.equal(seen.text.context, texts[wanted]), i
        assert torch.equal(seen.features.patches, validation.pictures()[i].encoded.features.patches), i


def test_the_sheet_shows_the_source_every_mode_and_the_truth_under_their_names(told, tmp_path):
    output = {"folder": str(tmp_path), "sample_every": 2, "validation_pictures": 2}
    config = settings(told, optimisation={"steps": 2, "learning_rate": 0.1}, output=output)
    trainer = tiny_trainer(config, mechanisms=ALL)
    run(trainer)
    with trainer.average.in_place():
        sheet, told_of_it = trainer.task.picture()
    strip = sheet.shape[1] - 2 * SIDE
    assert told_of_it == {} and not any("validation" in line for line in read_log(tmp_path))
    with Image.open(tmp_path / "samples" / "step-000002.png") as image:
        assert image.size == (8 * SIDE, strip + 2 * SIDE)
    titles = sheet[:, :strip].split(SIDE, dim=2)
    for title in titles:
        assert title.max() == 1 and title.min() < 0.2, "black on white"
        assert title[:, [0, -1]].min() == 1 and title[:, :, [0, -1]].min() == 1, "it fits"
    assert len({tuple(title.flatten().tolist()) for title in titles}) == 8
    for line, picture in enumerate(trainer.task.validation.pictures()):
        top = strip + line * SIDE
        parts = sheet[:, top : top + SIDE].split(SIDE, dim=2)
        assert torch.equal(parts[0], picture.source) and torch.equal(parts[-1], picture.sample.pixels)
        with trainer.average.in_place(), torch.no_grad():
            for part, mode in zip(parts[1:-1], MODES, strict=True):
                seen = trainer.task.validation.seen(line, mode)
                assert_near(part, redraw(trainer.task.validation, picture.source, seen).clamp(0, 1))
        for i in range(8):
            for j in range(i):
                assert (parts[i] - parts[j]).abs().max() > 1e-3, (i, j)


def test_what_no_mode_tells_apart_is_redrawn_once(pictures):
    validation = tiny_trainer(settings(pictures, output={"validation_pictures": 2})).task.validation
    assert validation.twins() == {
        "own": "own", "swap": "swap", "text": "text", "dino": "own", "none": "text", "retold": "own"
    }  # fmt: skip
    calls, velocity = [], validation.host.velocity
    validation.host.velocity = lambda *given, **options: calls.append(1) or velocity(*given, **options)
    draw_sheet(validation)
    alone = len(calls)
    redraw(validation, validation.pictures()[0].source, validation.seen(0, "own"))
    assert alone == 2 * 3 * (len(calls) - alone)


def test_distances_are_those_of_the_conditions_before_and_after_learning(told, judge):
    trainer = tiny_trainer(settings(told, output={"validation_pictures": 3}), judge=judge, mechanisms=ALL)

    def distances():
        with trainer.average.in_place():
            _, numbers = trainer.task.picture()
        return numbers["distance"]

    fresh = distances()
    assert list(fresh) == ["source", *MODES]
    assert fresh["own"] == fresh["text"] == fresh["swap"] and fresh["dino"] == fresh["none"]
    assert fresh["own"] != fresh["retold"] and fresh["own"] != fresh["none"]
    moved(trainer)
    learned = distances()
    assert len(set(learned.values())) == 7
    assert learned["source"] == fresh["source"] and learned["own"] != fresh["own"]
    pictures = trainer.task.validation.pictures()
    alone = [judge.distances([picture.source], picture.sample.pixels)[0] for picture in pictures]
    assert learned["source"] == pytest.approx(sum(alone) / 3)


def test_distances_stand_beside_the_losses_in_the_log_and_on_tensorboard(told, judge, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = {"folder": str(tmp_path), "validate_every": 2, "sample_every": 2, "validation_pictures": 2}
    config = settings(told, optimisation={"steps": 2}, output={**output, "tensorboard": True})
    run(tiny_trainer(config, judge=judge))
    losses, distances = (line["validation"] for line in read_log(tmp_path) if "validation" in line)
    assert list(losses) == list(MODES) and list(distances) == ["distance"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for mode in MODES:
        assert events.Scalars(f"validation/{mode}")[0].value == pytest.approx(losses[mode])
        assert events.Scalars(f"validation/distance/{mode}")[0].value == pytest.approx(distances["distance"][mode])
