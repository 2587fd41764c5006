"""Finished tiles on disk: whole or not at all, and never another job's."""

import json
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from dinotile.files.writing import abandoned, hold
from dinotile.tiling import store as stores
from dinotile.tiling.mark import MARK
from dinotile.tiling.store import TileStore

from ..limits import closed, largest_file, read_only


def levels(seed=0, side=16):
    generator = torch.Generator().manual_seed(seed)
    return (65535 * torch.rand(3, side, side, generator=generator)).to(torch.int32).to(torch.uint16)


def same(found, expected, turn=0):
    return found is not None and torch.equal(found[0].int(), expected.int()) and found[1] == turn


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_a_tile_comes_back_as_it_was_and_only_to_its_job(folder):
    TileStore(folder, "one").put(3, levels(), turn=2)
    again = TileStore(folder, "one")
    assert same(again.get(3), levels(), turn=2) and again.get(4) is None and not again.damaged
    assert TileStore(folder, "other").get(3) is None


def test_two_runs_share_a_store_at_once(folder):
    first, second = TileStore(folder, "job"), TileStore(folder, "job")
    first.put(0, levels(0))
    second.put(1, levels(1))
    second.put(0, levels(0))
    assert same(first.get(1), levels(1)) and same(second.get(0), levels(0))


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other tile", "no head"])
def test_a_damaged_tile_is_noticed_and_told(folder, caplog, damage):
    store = TileStore(folder, "job")
    store.put(0, levels(0))
    store.put(1, levels(1))
    path = folder / "job" / "0.tile"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "flipped": content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
            "emptied": b"",
            "other tile": (folder / "job" / "1.tile").read_bytes(),
            "no head": b"\xff" * len(content),
        }[damage]
    )
    assert store.get(0) is None and store.damaged == [0]
    assert "tile 1 is done again" in caplog.text
    store.put(0, levels(0))
    assert same(store.get(0), levels(0)) and same(store.get(1), levels(1))


def test_the_store_of_another_version_and_a_folder_with_other_files_are_refused(folder):
    TileStore(folder, "job")
    (folder / MARK).write_text(json.dumps({"version": 99}))
    with pytest.raises(ValueError, match="is of version 99, this DINOTile writes 1: name another folder"):
        TileStore(folder, "job")
    for content in (b"{", b"\xff\xfe\x00", b"[" * 9999, b"7"):
        (folder / MARK).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged: remove the folder"):
            TileStore(folder, "job")
    (folder / MARK).rename(folder / "photo.jpg")
    with pytest.raises(ValueError, match="holds other files, and no finished tiles"):
        TileStore(folder, "job")


def test_a_store_that_cannot_be_written_says_so_and_keeps_what_is_whole(folder):
    store = TileStore(folder, "job")
    store.put(0, levels(0))
    with (
        largest_file(1000),
        pytest.raises(ValueError, match="cannot be written .*name another folder for the store") as said,
    ):
        store.put(1, levels(1))
    assert "\n" not in str(said.value)
    assert same(store.get(0), levels(0)) and store.get(1) is None
    assert sorted(path.name for path in (folder / "job").iterdir()) == ["0.tile", "in-use"]
    with pytest.raises(ValueError, match="folder .* cannot be made"):
        TileStore(folder / "job" / "0.tile" / "below", "job")


def test_older_jobs_make_room_and_those_in_use_do_not(folder):
    tile = 3 * 16 * 16 * 2
    most = 5 * (tile + 200) / 2**30
    for number, job in enumerate(("old", "used", "new")):
        store = TileStore(folder, job, most=most)
        store.put(0, levels(number))
        os.utime(folder / job, (number, number))
        if job != "used":
            store.close()
        else:
            used = store
    last = TileStore(folder, "last", most=most)
    for number in range(4):
        last.put(number, levels(number))
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["last", "used"]
    assert same(used.get(0), levels(1)) and all(same(last.get(n), levels(n)) for n in range(4))
    with pytest.raises(ValueError, match="this picture's tiles need more: raise --store-size"):
        for number in range(4, 9):
            last.put(number, levels(number))
    assert same(last.get(3), levels(3))


def test_a_folder_of_somebody_elses_folders_is_refused_and_nothing_but_jobs_ever_makes_room(folder):
    (folder / "photos" / "2026").mkdir(parents=True)
    (folder / "photos" / "a").write_bytes(b"mine" * 100)
    with pytest.raises(ValueError, match="holds other files, and no finished tiles: name an empty one"):
        TileStore(folder, "job")
    assert [path.name for path in folder.iterdir()] == ["photos"]
    (folder / "photos").rename(folder.with_name("photos"))
    TileStore(folder, "old").close()
    folder.with_name("photos").rename(folder / "photos")  # put there later
    (folder / "old" / "notes.txt").write_text("mine")
    (folder / "old" / "0.tile").write_bytes(b"0" * 5000)
    TileStore(folder, "job", most=4000 / 2**30)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == [MARK, "job", "job/in-use", "old", "old/notes.txt", "photos", "photos/2026", "photos/a"]


def test_a_job_whose_tiles_are_all_there_is_used_too_when_others_make_room(folder):
    for number, job in enumerate(("first", "second")):
        store = TileStore(folder, job)
        store.put(0, levels(number))
        store.close()
        os.utime(folder / job, (number, number))
    TileStore(folder, "first").close()
    TileStore(folder, "third", most=2000 / 2**30)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["first", "third"]


def test_a_run_that_begins_while_its_job_is_looked_at_or_removed_waits_and_is_then_in_use(folder):
    TileStore(folder, "job").close()
    lock, begun = folder / "job" / stores.LOCK, threading.Event()
    found = []

    def begin():
        begun.set()
        found.append(TileStore(folder, "job"))

    with lock.open("r+") as held:
        assert hold(held)
        thread = threading.Thread(target=begin)
        thread.start()
        begun.wait()
        thread.join(0.2)
        assert thread.is_alive()
        lock.unlink()
    thread.join(60)
    assert lock.exists() and not abandoned(lock)
    found[0].put(0, levels())
    assert same(TileStore(folder, "job").get(0), levels())


def test_a_job_that_another_person_closed_is_let_be():
    with tempfile.TemporaryDirectory() as place:  # which everybody may enter, as no folder of pytest's
        folder = Path(place, "store")
        TileStore(folder, "theirs").put(0, levels())
        for path in (folder.parent, folder):
            path.chmod(0o777)
        with closed(folder / "theirs"):
            store = TileStore(folder, "mine")
            store.put(0, levels())
            assert same(store.get(0), levels())
        assert same(TileStore(folder, "theirs").get(0), levels())


def test_a_mark_that_was_never_finished_keeps_nobody_out(folder):
    folder.mkdir()
    (folder / f".{MARK}.01234567.part").write_bytes(b"{")
    TileStore(folder, "job").put(0, levels())
    assert (folder / MARK).exists()


def test_what_killed_processes_left_is_removed_when_it_is_old(folder):
    TileStore(folder, "job").close()
    left = folder / "job" / ".0.tile.01234567.part"
    left.write_bytes(b"half")
    TileStore(folder, "job")
    assert left.exists()  # another run may be writing it
    os.utime(left, (1, 1))
    TileStore(folder, "job")
    assert not left.exists()


def test_it_is_known_which_tiles_were_done_again_in_which_order_until_one_is_lost(folder):
    store = TileStore(folder, "job")
    for tile in range(4):
        store.put(tile, levels(tile))
    for tile, turn in ((2, 1), (0, 1), (2, 2)):
        store.redo(tile, levels(10 + tile), turn=turn)
    store.close()
    store = TileStore(folder, "job")
    assert store.redone == [2, 0, 2] and same(store.get(2), levels(12), turn=2)
    store.made(3, [1])
    assert store.redone == [2, 0, 2]
    store.made(1, [0])  # in sight of one that was done again, as the first was not
    assert store.redone is None
    store.redo(1, levels(), turn=1)
    assert TileStore(folder, "job").redone is None


def test_a_kill_between_the_note_and_the_tile_leaves_what_was_before(folder):
    store = TileStore(folder, "job")
    store.put(0, levels(0))
    store.redo(0, levels(1), turn=1)
    (folder / "job" / "redone.json").write_text('{"redone": [0, 0]}')
    assert store.redone == [0]
    store.redo(0, levels(2), turn=2)
    assert store.redone == [0, 0] and same(store.get(0), levels(2), turn=2)
    for text in ("{", '{"redone": [true]}', '{"redone": [-1]}', '{"redone": {}}', "[]", "[" * 9999):
        (folder / "job" / "redone.json").write_text(text)
        assert store.redone is None


def test_what_an_early_version_did_again_is_unknown_as_it_noted_nothing(folder):
    store = TileStore(folder, "job")
    store.put(0, levels(0))
    store.put(1, levels(1), turn=1)  # as it did
    store.close()
    store = TileStore(folder, "job")
    assert store.redone is None
    store.redo(0, levels(2), turn=1)
    store.close()
    assert TileStore(folder, "job").redone is None


def test_tiles_are_done_again_by_a_run_that_has_them_to_itself(folder, caplog):
    store, other = TileStore(folder, "job"), TileStore(folder, "job")
    with pytest.raises(ValueError, match="another run works on this picture's tiles in store .*: wait for it"):
        store.alone()
    store.close()
    other.alone()
    thread = threading.Thread(target=lambda: TileStore(folder, "job").put(0, levels()))
    thread.start()
    end = time.monotonic() + 60
    while "waiting for it" not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert thread.is_alive() and other.get(0) is None
    other.close()
    thread.join(60)
    assert same(TileStore(folder, "job").get(0), levels())


def test_making_room_leaves_no_note_for_the_next_of_that_job(folder):
    store = TileStore(folder, "first")
    store.put(0, levels(0))
    store.redo(0, levels(1), turn=1)
    store.close()
    TileStore(folder, "second", most=1e-9)
    assert not (folder / "first").exists() and TileStore(folder, "first").redone == []


def test_a_store_that_may_only_be_read_gives_its_tiles_and_takes_none():
    with tempfile.TemporaryDirectory() as place:  # which everybody may enter, as no folder of pytest's
        folder = Path(place, "store")
        store = TileStore(folder, "job")
        store.put(0, levels())
        store.close()
        before = sorted((path, path.stat().st_mtime_ns) for path in Path(place).rglob("*"))
        Path(place).chmod(0o755)
        with read_only(folder):
            store = TileStore(folder, "job")
            assert same(store.get(0), levels()) and store.get(1) is None and store.closed
            with pytest.raises(ValueError, match="tile 2 is not finished in store .*cannot be written .*name another"):
                store.check_open(1)
            with pytest.raises(ValueError, match="no tile of store .* can be done again, as it cannot be written"):
                store.alone()
            store.close()
            with pytest.raises(ValueError, match="folder .*other cannot be made"):
                TileStore(folder, "other")
        assert sorted((path, path.stat().st_mtime_ns) for path in Path(place).rglob("*")) == before
