"""A disk that is full after so many bytes, as the system itself says it."""

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
