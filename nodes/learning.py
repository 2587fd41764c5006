"""What the nodes share that make adapters of a folder of pictures."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..files.fingerprints import fingerprint
from ..hosts.comfy.folders import lost_adapters, picture_folder
from . import sockets
from .sockets import problem

CATEGORY = f"{sockets.CATEGORY}/Training"


class LearningNode(io.ComfyNode):
    """Runs again where its pictures have changed or the adapter that it wrote is gone."""

    @classmethod
    def validate_inputs(cls, folder) -> bool | str:
        return problem(picture_folder, folder)

    @classmethod
    def fingerprint_inputs(cls, folder, filename_prefix, **others) -> str | float:
        from ..training.data.sources import find_entries, listing

        if folder is None:  # a link brings it, so nothing is known
            return float("nan")
        told = [listing(find_entries(picture_folder(folder))), lost_adapters(filename_prefix)]
        return fingerprint(json.dumps(told).encode())
