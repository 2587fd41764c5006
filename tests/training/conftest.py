import pytest

from ..threads import one_thread as one_thread
from . import tiny


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of twelve small pictures."""
    return tiny.picture_folder(tmp_path_factory.mktemp("pictures"), count=12)
