"""Adapters saved where they cannot be: one clear sentence, and no file is left."""

import os
import subprocess
import sys

import pytest

from . import graphs
from .graphs import node
from .refusals import all_is_well_afterwards as all_is_well_afterwards
from .refusals import refused
from .refusals import small as small


@pytest.fixture
def occupied(base):
    """A file in the output folder where a folder would have to be."""
    path = base / "output" / "occupied"
    path.write_bytes(b"")
    yield path.name
    path.unlink()


@pytest.fixture
def locked(base):
    """A folder in the output folder into which nobody may write."""
    folder = base / "output" / "locked"
    folder.mkdir(mode=0o500)
    fixed = os.access(folder, os.W_OK) and subprocess.run(["chattr", "+i", folder]).returncode == 0  # for root
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    yield folder.name
    if fixed:
        subprocess.run(["chattr", "-i", folder], check=True)
    folder.rmdir()


def saving(prefix: str) -> graphs.Prompt:
    adapter = graphs.with_dino()["adapter"]
    return {
        "adapter": adapter,
        "saved": node("DinoTile_SaveAdapter", adapter=("adapter", 0), filename_prefix=prefix),
    }


@pytest.mark.parametrize("prefix", ["../outside", "adapters/../../outside", "", "..", "/outside"])
def test_an_adapter_is_saved_below_the_output_folder_only(server, prefix):
    refused(server, saving(prefix), "saved", repr(prefix), "must lie in output", "give a name such as")


def test_an_adapter_below_a_file_is_refused(server, occupied):
    refused(server, saving(f"{occupied}/mine"), "saved", f"{occupied}/mine cannot be written", "choose another name")


def test_an_adapter_in_a_folder_without_permission_is_refused(server, locked):
    refused(server, saving(f"{locked}/mine"), "saved", f"{locked}/mine", "cannot be written", "choose another place")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit another process")
def test_an_adapter_that_the_disk_has_no_room_for_is_refused(server, small):
    import resource

    prompt = graphs.one_node(small) | saving("full/mine")
    del prompt["save"], prompt["upscale"]
    prompt["adapter"] = graphs.new_adapter(width=1024)
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    room = server.log_path.stat().st_size + 2**20  # the log goes on, the adapter is larger
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        refused(server, prompt, "saved", "full/mine_00001_.safetensors cannot be written", "make room")
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
