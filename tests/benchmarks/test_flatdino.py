"""What FlatDINO is judged on at toy size."""

import torch

from dinotile.benchmarks.flatdino import classes, encoded, trained
from dinotile.dino.compress.checkpoint import load_flat
from dinotile.training.flatdino.probe import classes_of


def test_pictures_have_their_numbers_and_a_run_of_a_second_leaves_a_file(tmp_path):
    data = encoded(tmp_path / "a", range(5, 9))
    assert data.names == [f"{number:07d}.png" for number in range(5, 9)]
    assert (data.made.dino, data.made.how, data.made.grid) == ("dinov2-demo", "4", (12, 12))
    again = encoded(tmp_path / "b", range(8, 9))
    assert torch.equal(again.batch([0])[0], data.batch([3])[0])
    flat = load_flat(trained("fast-2-nn-4-hl-nokl", data, tmp_path / "run", minutes=1 / 60))
    assert flat.provenance["steps"] >= 1 and flat.config.floats == 8


def test_each_shape_has_its_folder(tmp_path):
    data = classes(tmp_path, first=0, count=2)
    assert len(classes_of(data)) == 8 and len(data) == 16
