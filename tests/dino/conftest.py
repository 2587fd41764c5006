import pytest

from dinotile.dino.specs import SPECS

from ..threads import one_thread as one_thread
from .tiny import TINY


@pytest.fixture
def tiny_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the tiny encoders are recognised like those of the real ones."""
    for name, spec in TINY.items():
        monkeypatch.setitem(SPECS, name, spec)
