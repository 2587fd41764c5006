import pytest
import torch

from . import tiny


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tiny tensors spend more time waking threads than computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of twelve small pictures."""
    return tiny.picture_folder(tmp_path_factory.mktemp("pictures"), count=12)
