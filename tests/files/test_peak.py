"""The peak of memory is this process's own."""

import subprocess
import sys

CHILD = "from dinotile.files.peak import process_peak; print(process_peak())"
PARENT = f"""
import subprocess, sys
kept = b"1" * 400_000_000
print(subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True, check=True).stdout)
"""
OWN = "kept = b'1' * 200_000_000; " + CHILD


def told(code):
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_what_started_a_process_does_not_count_and_its_own_does():
    assert 1e6 < told(PARENT) < 300e6
    assert 200e6 < told(OWN)
