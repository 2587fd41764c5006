"""Checks for inside_training.py: what the node refuses to train on."""

from __future__ import annotations

from functools import partial

from inside_sampling import tiled
from inside_tools import BASE, OUT, PATCHES, adapter, check, fill_model, flux, folder, node, refusal, saved
from training_tools import train, vae

# isort: split

import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper

from dinotile import nodes
from dinotile.hosts.comfy.adapter import HostAdapter
from dinotile.training.adapter.start import copied


def outside() -> list[str]:
    """Folders that a node may not say anything about; some of them exist."""
    (BASE / "input").mkdir(exist_ok=True)
    for name, target in (("link", BASE / "output"), ("dead", BASE / "nothing")):
        (BASE / "input" / name).unlink(missing_ok=True)
        (BASE / "input" / name).symlink_to(target)
    above = ["..", "../output", "../nothing", "link", "dead", "link/../../output", "/", "a\0b", f"{OUT}x"]
    return [str(BASE), str(BASE / "nothing"), str(OUT.parent), *above]


def unknown() -> list[str]:
    """Folders that are not in input; nothing is made of tildes and patterns."""
    (BASE / "input" / "known").mkdir(exist_ok=True)
    return ["known/nowhere", "kn*", "know[n]", "{known,other}", "~", "~root", "~nobody", "x" * 300]


def compiled():
    model = flux().clone()
    set_torch_compile_wrapper(model=model, backend="eager")
    return model


def overflowing() -> HostAdapter:
    """A trained adapter whose weights are finite, and not what FLUX makes of them."""
    found = copied(adapter().adapter)
    with torch.no_grad():
        for weights in found.module.parameters():
            weights *= 1e30
    return HostAdapter(found, None)


@check
def refusals():
    empty = OUT / "empty"
    empty.mkdir(exist_ok=True)
    broken = OUT / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "a.png").write_bytes(b"no picture")
    elsewhere = OUT / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (PATCHES / "occupied").write_bytes(b"")
    other = node(nodes.LoadAdapter, "for-other-dino.safetensors")
    actions = {
        "no folder": lambda: train("bad", folder="  "),
        "missing folder": lambda: train("bad", folder=str(OUT / "nowhere")),
        "missing folder in input": lambda: train("bad", folder="nowhere"),
        "empty folder": lambda: train("bad", folder=str(empty)),
        "unreadable": lambda: train("bad", folder=str(broken)),
        "tiny": lambda: train("bad", folder=folder("tiny", [(16, 20)])),
        "picture off the grid": lambda: train("bad", picture=40),
        "name outside": lambda: train("bad", filename_prefix="../outside"),
        "absolute name": lambda: train("bad", filename_prefix=str(elsewhere / "x")),
        "name below a file": lambda: train("bad", filename_prefix="occupied/x"),
        "no name": lambda: train("bad", filename_prefix=""),
        "adapter of another DINO": lambda: train("bad", adapter=other),
        "adapter of another FLUX": lambda: train("bad", model=flux("flux-wide"), adapter=adapter()),
        "layers": lambda: train("bad", layers="9"),
        "VAE of another FLUX": lambda: train("bad", model=flux("flux2")),
        "FLUX.1 Fill": lambda: train("bad", model=fill_model()),
        "NaN": lambda: train("bad", vae=vae("vae-nan")),
        "adapter with NaN": lambda: train("bad", adapter=adapter("adapter-nan")),
        "adapter that overflows": lambda: train("bad", adapter=overflowing()),
        "compiled": lambda: train("bad", model=compiled()),
        "tiled": lambda: train("bad", model=tiled(flux())),
        "tile above picture": lambda: train("bad", picture=32, tile=64),
    }
    said = {name: refusal(action) for name, action in actions.items()}
    (PATCHES / "occupied").unlink()
    return {
        "said": said,
        "said outside": {name: refusal(partial(train, "bad", folder=name)) for name in outside()},
        "said of unknown": {name: refusal(partial(train, "bad", folder=name)) for name in unknown()},
        "files": [path.name for path in saved("bad")] + [path.name for path in elsewhere.iterdir()],
        "afterwards": train("fine", steps=1)[0].adapter.trained,
    }
