"""Arrays beside pictures are data: what they claim is compared with what they hold, and what breaks is counted."""

import io
import os
import struct
import tracemalloc
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dinotile.training.data.sample import Unusable, unusable
from dinotile.training.data.side_files import read_npy
from dinotile.training.data.sources import Member, find_entries, find_paths, listing

from ..pictures import colours, encoded, npy


@contextmanager
def little_memory():
    """Within it, at most 16 MiB more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def header(text, *, version=(1, 0)):
    """A .npy file's head that says ``text``."""
    content = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(content)) + content


def claiming(shape, *, kind="<f4", turned=False):
    return header(f"{{'descr': {kind!r}, 'fortran_order': {turned}, 'shape': {shape}, }}")


def archive():
    content = io.BytesIO()
    np.savez(content, x=np.zeros((2, 3), np.float32))
    return content.getvalue()


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", "|u1", "<i8"])
@pytest.mark.parametrize("turned", [False, True])
def test_numbers_of_any_size_and_order_come_as_numpy_reads_them(kind, turned):
    array = np.asarray([[0, 1, 2], [3, 4, 5]], dtype=kind, order="F" if turned else "C")
    assert read_npy(npy(array), axes=(2,)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_npy(npy(array), axes=(2,)).dtype == torch.float32


DAMAGED = {
    "an archive": archive(),
    "nothing": b"",
    "a claim of terabytes": claiming((10**6, 10**6)) + bytes(8),
    "a claim beyond all numbers": claiming((10**30, 10**30)),
    "a claim of more than there is": claiming((2, 3)) + bytes(20),
    "less than there is": claiming((2, 3)) + bytes(28),
    "negative sides": claiming((-2, -3)) + bytes(24),
    "items of no size": claiming((10**12, 3), kind="|V0"),
    "text": claiming((2, 3), kind="<U1") + bytes(24),
    "complex numbers": claiming((2, 3), kind="<c8") + bytes(48),
    "an unclosed header": header("{'descr': ("),
    "a header of many brackets": header("(" * 4000),
    "another version": header("{}", version=(9, 9)),
    "infinity": npy(np.full((2, 3), 1e300)),
    "pickled objects": npy(np.array([[None]], dtype=object)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_damaged_array_is_unusable_and_costs_no_memory(content):
    with little_memory(), pytest.raises(Unusable, match="^with damage$"), unusable("with damage"):
        read_npy(content, axes=(2,))


@pytest.mark.parametrize("error", [struct.error, zlib.error, KeyError, ZeroDivisionError, RecursionError, MemoryError])
def test_whatever_a_decoder_raises_is_a_reason_to_skip(error):
    with pytest.raises(Unusable, match="^unreadable$"), unusable("unreadable"):
        raise error("what its author did not foresee")


def test_a_reason_that_is_known_stays():
    with pytest.raises(Unusable, match="^unreadable file$"), unusable("with damaged features"):
        raise Unusable("unreadable file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_a_loop_of_links_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(colours(4, 4)))
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "c.png")
    entries = find_entries(tmp_path)
    assert [entry.name for entry in entries] == ["a.png", "b.png", "c.png"]
    for entry in entries[1:]:
        with pytest.raises(Unusable, match="unreadable file"):
            entry.picture().read()
    assert [row[0] for row in listing(entries)] == ["a.png", "b.png", "c.png"]
    os.mkfifo(tmp_path / "s.tar")
    with pytest.raises(ValueError, match="s.tar is neither a folder nor a .tar file"):
        find_paths(tmp_path / "s.tar")


def test_a_member_is_never_longer_than_its_file(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with little_memory(), pytest.raises(Unusable, match="unreadable file"):
        Member(tmp_path / "a", offset=1, size=2**40).read()
    assert Member(tmp_path / "a", offset=1, size=4).read() == b"2345"
