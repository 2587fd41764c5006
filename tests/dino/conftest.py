from collections.abc import Iterator

import pytest
import torch

from dinotile.dino.specs import SPECS

from .tiny import TINY


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors spend more time waking threads than computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the tiny encoders are recognised like those of the real ones."""
    for name, spec in TINY.items():
        monkeypatch.setitem(SPECS, name, spec)
