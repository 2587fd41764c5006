"""What ``--store`` and ``--redo`` mean to a process that works in another folder."""

from pathlib import Path

import pytest

from dinotile.cli.kept import Store


@pytest.mark.parametrize("redo,other", [("mask.png", "{}/mask.png"), ("3,4", "3,4"), ("10x10+0+0", "10x10+0+0")])
def test_places_are_the_same_from_everywhere_and_numbers_stay(tmp_path, monkeypatch, redo, other):
    (tmp_path / "mask.png").write_bytes(b"any")
    monkeypatch.chdir(tmp_path)
    store = Store(Path("tiles"), redo=redo).absolute
    assert (store.folder, store.redo) == (tmp_path / "tiles", other.format(tmp_path))
    assert Store(redo=redo).absolute.folder is None
