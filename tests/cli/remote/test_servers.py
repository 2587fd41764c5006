"""What is done with a picture that several servers share out, where no server need answer for it."""

import pytest

from dinotile.cli.remote.client import ComfyClient
from dinotile.cli.remote.pool import Gone, Job, Pool
from dinotile.cli.remote.servers import Servers

from .test_workflow import WORKFLOW

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def servers():
    addresses = {"a": NOWHERE, "b": NOWHERE}
    return Servers(WORKFLOW, (), ComfyClient, (), (), lambda job, places: None, lambda place: False, addresses)


def test_a_picture_that_went_since_the_job_began_fails_alone(servers, tmp_path):
    pool = Pool([Job(tmp_path / "gone.png", tmp_path / "out.png")], ["a", "b"], servers.work)
    *_, failed = pool.run(stop=servers.stop)
    assert failed.kind == "failed" and failed.why.startswith(f"{tmp_path}/gone.png cannot be read (No such file")
    assert not servers.at_work


def test_what_begins_after_the_job_was_ended_is_not_sent(servers, tmp_path):
    (tmp_path / "in.png").write_bytes(b"any")
    servers.stop()
    with pytest.raises(Gone, match="the job was ended"):
        servers.work("a", Job(tmp_path / "in.png", tmp_path / "out.png"))
    assert not servers.at_work
