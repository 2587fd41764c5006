"""What a refusal over HTTP must be: one clear sentence, nothing half-written, and the next prompt works."""

import uuid

import pytest

from . import graphs
from .graphs import soft_picture


@pytest.fixture(scope="module")
def small(server) -> str:
    return server.upload(soft_picture(48, 64), "small.png")


@pytest.fixture(autouse=True)
def all_is_well_afterwards(server, base, small):
    """Whatever happened, no file is left and a good prompt gives a picture."""
    before = files(base)
    yield
    assert files(base) == before
    assert server.run(graphs.one_node(small, seed=uuid.uuid4().int % 2**32)).ok


def files(base) -> set[str]:
    below = [path for folder in ("output", "models") for path in (base / folder).rglob("*")]
    return {str(path) for path in (*base.iterdir(), *below) if path.is_file()}


def refused(server, prompt: graphs.Prompt, at: str, *parts: str) -> str:
    """The sentence with which node ``at`` refuses the prompt while it runs; it is all that the log says of it."""
    before = len(server.log)
    result = server.run(prompt)
    assert result.error is not None, result
    assert result.error["node_id"] == at
    assert result.error["exception_type"] == "ValueError"
    sentence = result.error["exception_message"].strip()
    assert "\n" not in sentence and 20 < len(sentence) < 400
    for part in parts:
        assert part in sentence
    logged = server.log[before:]
    assert "Traceback" not in logged and f"!!! Exception during processing !!! {sentence}" in logged
    assert result.error["traceback"]  # for the page's report
    return sentence


def refused_at_once(server, prompt: graphs.Prompt, at: str, inputs: set[str], *parts: str) -> None:
    """Node ``at`` refuses the prompt at these inputs before any node runs, and the log has no traceback."""
    before = len(server.log)
    result = server.run(prompt)
    assert not result.prompt_id and set(result.node_errors) == {at}, result
    errors = result.node_errors[at]["errors"]
    assert {error["type"] for error in errors} == {"custom_validation_failed"}
    assert {error["extra_info"]["input_name"] for error in errors} == inputs
    for error in errors:
        for part in parts:
            assert part in error["details"]
    assert "Traceback" not in server.log[before:] and "got prompt" in server.log[before:]
