import hashlib

import torch

from dinotile.files.fingerprints import file_fingerprint, fingerprint, fingerprint_of, weights_fingerprint


def test_fingerprints_are_those_that_files_on_disk_carry(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        fingerprint(b"abc") == fingerprint_of([b"a", b"bc"]) == file_fingerprint(tmp_path / "a") == "ba7816bf8f01cfea"
    )
    weights = {"b": torch.zeros(2), "a": torch.ones((), dtype=torch.bfloat16)}
    content = b"head" + b"a" + b"\x80\x3f" + b"b" + bytes(8)
    assert weights_fingerprint(weights, head=b"head") == hashlib.sha256(content).hexdigest()[:16]
