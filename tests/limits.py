"""A disk that is full after so many bytes, and files of somebody else, as the system itself says it."""

import os
import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size):
    """Within it, this process and those that it starts cannot write files of more bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def closed(folder):
    """Within it, this process may not look into the folder, as root neither."""
    folder.chmod(0)
    try:
        with not_root():
            yield
    finally:
        folder.chmod(0o700)


@contextmanager
def read_only(folder):
    """Within it, this process may read all that is in the folder, and write nothing there, as root neither."""
    inside = [folder, *folder.rglob("*")]
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with not_root():
            yield
    finally:
        for path in inside:
            path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def not_root():
    """Within it, who is root is nobody."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
