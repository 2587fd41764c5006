import pytest

from dinotile.dino.specs import SPECS

from ..dino.tiny import TINY


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for name, spec in TINY.items():
        monkeypatch.setitem(SPECS, name, spec)
