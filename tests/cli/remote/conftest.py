import json

import pytest

from .stand_in import StandIn, png
from .test_workflow import WORKFLOW


@pytest.fixture
def stand_in():
    with StandIn() as server:
        yield server


@pytest.fixture
def sent(tmp_path):
    """Arguments of a run, and the output that it writes."""
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW))
    (tmp_path / "in.png").write_bytes(png())
    output = tmp_path / "out.png"
    return ["run", tmp_path / "workflow.json", "--image", tmp_path / "in.png", "-o", output], output
