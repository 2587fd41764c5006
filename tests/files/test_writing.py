import os
import stat

import pytest
import torch

from dinotile.files.pictures import Picture, save_picture
from dinotile.files.weights import write_weights
from dinotile.files.writing import remove_parts, replacing, write_text

from ..limits import largest_file
from ..tiny import picture


def written(kind, path):
    if kind == "picture":
        save_picture(Picture(picture(64, 64)), path)
    elif kind == "weights":
        write_weights(path, {"a": torch.zeros(1000)}, {"note": "kept"})
    else:
        write_text(path, "x" * 4000)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.png"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("kind", ["picture", "weights", "text"])
def test_files_get_the_usual_permissions(tmp_path, kind):
    written(kind, tmp_path / "a.png")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize("kind", ["picture", "weights", "text"])
def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    with largest_file(1000), pytest.raises(ValueError) as error:
        written(kind, path)
    assert str(error.value) == f"output {path} cannot be written (File too large): make room or choose another place"
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"before"


@pytest.mark.parametrize("kind", ["picture", "weights", "text"])
@pytest.mark.parametrize("place", ["/proc/a.png", "no/a.png", "file/a.png"])
def test_a_place_that_takes_no_files_is_one_sentence(tmp_path, kind, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="a.png (cannot be written|does not exist)"):
        written(kind, tmp_path / place)
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    path = tmp_path / ("\N{SNOWMAN}" * 85)  # 255 bytes
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_a_folder_appears_whole_and_takes_the_place_of_an_older_one(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "folder") as part:
            part.mkdir()
            write_text(part / content, content)
            assert content == "old" or os.listdir(tmp_path / "folder") == ["old"]
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == ["new"]


def test_a_folder_that_a_full_disk_cuts_short_is_named_itself_and_leaves_the_older_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with (
        largest_file(1000),
        pytest.raises(ValueError, match=r"^output \S+/folder cannot be written .File too large.: go"),
    ):
        with replacing(tmp_path / "folder", advice="go") as part:
            part.mkdir()
            written("weights", part / "a")
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == ["old"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    killed = []
    for name in ("a-1", "a-2", "b"):
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / name) as part:
            killed.append(part)
            raise KeyboardInterrupt
    killed[0].touch()
    (killed[1] / "deep").mkdir(parents=True)
    killed[2].touch()
    remove_parts(tmp_path, "a-*")
    assert os.listdir(tmp_path) == [killed[2].name]


def test_a_users_folder_that_ends_in_part_is_a_folder_like_any_other(tmp_path):
    folder = tmp_path / "photos.part"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    with pytest.raises(ValueError, match="cannot be written"), replacing(folder / "a.txt") as part:
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.txt": "old"}
