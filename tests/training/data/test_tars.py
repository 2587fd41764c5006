"""Lengths that a tar only claims take no memory, and end in one sentence."""

import resource
import tarfile

import pytest

from dinotile.training.data.sources import entries_of

BLOCK = b"x" * 512


def member(name, size, kind=b"0"):
    """A header whose size is written in base 256, which goes below zero and beyond 2^63."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (
        b"\x80" + size.to_bytes(11, "big") if size >= 0 else b"\xff" + (256**11 + size).to_bytes(11, "big")
    )
    header[156:157], header[148:156] = kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(text):
    """A header with values for the next member."""
    record = f" {text}\n"
    length = len(record) + len(str(len(record) + 2))
    content = f"{length}{record}".encode()
    return member("pax", len(content), b"x") + content.ljust(512, b"\0")


SPARSE = pax("GNU.sparse.map=0,1,2") + pax("GNU.sparse.size=1000000000000000") + member("a.png", 512) + BLOCK
CLAIMS = {
    **{
        f"{size} bytes": member("a.png", size) + BLOCK
        for size in (3000, 2**40, 2**62, 2**63, 2**70, -1, -512, -(2**70))
    },
    "back to itself": member("a.png", -1024) + BLOCK,
    "an unknown kind that goes back": member("a", -1024, b"Z") + BLOCK,
    "a long name": member("a", 2**40, b"L") + BLOCK,
    "long values": member("a", 2**40, b"x") + BLOCK,
    "values that go back": member("a", -1024, b"x") + BLOCK,
    "a size as a value": pax("size=1000000000000000000000000000000") + member("a.png", 4) + BLOCK,
    "a size below zero as a value": pax("size=-1024") + member("a.png", 4) + BLOCK,
    "holes": member("a.png", 512, b"S") + BLOCK,
    "holes as values": SPARSE,
    "an odd name": member("\x1b[2J.png", 2**40) + BLOCK,
}


@pytest.mark.parametrize("content", CLAIMS.values(), ids=CLAIMS)
def test_a_length_that_is_not_there_is_one_sentence(content, tmp_path):
    (tmp_path / "s.tar").write_bytes(content + bytes(1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ValueError, match=r"^s.tar is not a whole tar file \(.*\): write or download it again$"
    ) as error:
        entries_of(tmp_path / "s.tar")
    assert str(error.value).isprintable() and len(str(error.value)) < 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


def test_links_in_a_tar_are_no_members(tmp_path):
    links = member("a.png", 0, b"2") + member("a.png", 0, b"1") + member("b.png", 512) + BLOCK
    (tmp_path / "s.tar").write_bytes(links + bytes(1024))
    assert [entry.name for entry in entries_of(tmp_path / "s.tar")] == ["s/b"]
