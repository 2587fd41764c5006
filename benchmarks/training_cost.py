"""What makes training cheaper, and by how much: `python benchmarks/training_cost.py` on any device.

Two tables. Pictures: seconds that the demo's trainer takes per row to have a picture of 512 px (decode, degrade, DINO, VAE), and
to learn from a 256 px window of it, with nothing kept, with four windows of every picture, and with pictures kept in memory
and in a folder. FLUX: seconds of a training step, bytes that wait for the backward pass, and bytes of FLUX's weights, with
blocks of FLUX.1's width (--blocks 2 4, --side 16: image tokens per side) in bfloat16: with and without checkpointing, with
the first site in the first block and in the last double one, and with weights in 8 bits.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dinotile import demo
from dinotile.benchmarks.figures import about, publish
from dinotile.benchmarks.flux_size import Setting, adapter_for, full_setting, learner
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_vae
from dinotile.training.adapter.config import TrainConfig, config_from
from dinotile.training.adapter.run import kept_pictures, load_models
from dinotile.training.adapter.task import AdapterTask
from dinotile.training.core.trainer import Trainer
from dinotile.training.data.pictures import open_data

PICTURES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each kind, after one that warms up")
    parser.add_argument(
        "--blocks", type=int, nargs=2, default=(2, 4), metavar=("DOUBLE", "SINGLE"), help="0 0: no FLUX"
    )
    parser.add_argument("--no-pictures", action="store_true", help="FLUX only")
    parser.add_argument("--side", type=int, default=16, help="image tokens per side")
    parser.add_argument("--text", type=int, default=512, help="text tokens")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, Any] = {} if options.no_pictures else {"pictures": pictures(device, rounds=options.rounds)}
    if any(options.blocks):
        setting = replace(full_setting(device, blocks=options.blocks), side=options.side, text=options.text)
        figures["FLUX"] = flux(setting, rounds=options.rounds)
    publish({"about": about(device), "figures": figures}, options.json)


def pictures(device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Seconds a row of the demo's trainer, of both halves, by what is kept of pictures."""
    with tempfile.TemporaryDirectory() as place:
        folder, kept = Path(place, "data"), str(Path(place, "kept"))
        folder.mkdir()
        photo = Image.open(demo.SAMPLE).convert("RGB").resize((1024, 1024))
        for number in range(PICTURES):
            photo.rotate(90 * number).save(folder / f"{number}.jpg", quality=95)
        kinds: dict[str, dict[str, Any]] = {
            "nothing kept": {},
            "4 windows of a picture": {"windows": 4},
            "kept in memory": {"cache": PICTURES},
            "kept in a folder": {"encoded": kept},
        }
        return {name: _rows(_config(folder, device, data), device, rounds=rounds) for name, data in kinds.items()}


def _config(folder: Path, device: torch.device, data: dict[str, Any]) -> TrainConfig:
    return config_from(
        {
            "model": {"device": device.type},
            "data": {"path": str(folder), "picture": 512, "tile": 256, **data},
            "conditions": {"none": 0, "text": 0, "dino": 0, "both": 1, "weak": 0},
            "optimisation": {"accumulation": 4},
        }
    )


def _rows(config: TrainConfig, device: torch.device, *, rounds: int) -> dict[str, float]:
    host, encoder = load_models(config.model, config.adapter, device=device, seed=0)
    data, kept = open_data(config.data, needs_features=None), kept_pictures(config, host, encoder)
    task = AdapterTask(host, encoder, data, config, path=Path("unused"), kept=kept)
    trainer, seconds = Trainer(task, config.optimisation), {"rows": 0.0}
    draw = task.rows

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        rows = draw(*arguments, **named)
        seconds["rows"] += time.perf_counter() - start
        return rows

    task.rows = timed  # type: ignore[method-assign]
    for _ in range(PICTURES):  # every picture once
        trainer.step()
    seconds["rows"], start = 0.0, time.perf_counter()
    for _ in range(rounds):
        trainer.step()
    count = rounds * trainer.rows_per_step
    whole = time.perf_counter() - start
    return {
        "picture": round(seconds["rows"] / count, 4),
        "learning": round((whole - seconds["rows"]) / count, 4),
        "whole": round(whole / count, 4),
    }


def flux(setting: Setting, *, rounds: int) -> dict[str, Any]:
    """Steps of a frozen FLUX of full width, each kind over the first."""
    late = tuple(site for site in setting.adapter.sites if not site.startswith("double"))
    last = (f"double.{setting.adapter.geometry.double_blocks - 1}", *late)
    kinds: dict[str, tuple[tuple[str, ...], bool, bool]] = {
        "checkpointing": (setting.adapter.sites, True, False),
        "no checkpointing": (setting.adapter.sites, False, False),
        "first site in the last double block, checkpointing": (last, True, False),
        "first site in the last double block, no checkpointing": (last, False, False),
        "8-bit weights, checkpointing": (setting.adapter.sites, True, True),  # the last: they stay so
    }
    found: dict[str, Any] = {}
    for name, (sites, checkpointing, narrow) in kinds.items():
        if narrow:
            setting.flux.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
        setting.flux.disable_gradient_checkpointing()
        chosen = replace(setting, adapter=replace(setting.adapter, sites=sites))
        found[name] = _step(chosen, checkpointing=checkpointing, rounds=rounds)
        print(name, found[name], flush=True)
    first = found["checkpointing"]["seconds"]
    return {name: {**each, "over the first": round(each["seconds"] / first, 3)} for name, each in found.items()}


def _step(setting: Setting, *, checkpointing: bool, rounds: int) -> dict[str, Any]:
    host = DiffusersHost(
        setting.flux,
        load_vae(demo.VAE),
        adapter=adapter_for(setting, ("cross_attention",)),
        adapter_dtype=torch.float32,
        gradient_checkpointing=checkpointing,
        device=setting.flux.device,
    )
    step, weights = learner(setting, host), setting.flux.state_dict().values()
    assert host.adapter is not None
    known = {tensor.untyped_storage().data_ptr() for tensor in (*weights, *host.adapter.module.parameters())}
    with waiting(known) as bytes_by_place:
        step()
    seconds = [_timed(step, host.device) for _ in range(rounds)]
    host.remove()
    return {
        "seconds": round(median(seconds), 4),
        "MiB for the backward pass": round(sum(bytes_by_place.values()) / 2**20, 1),
        "MiB of weights": round(sum(tensor.nbytes for tensor in weights) / 2**20, 1),
    }


@contextmanager
def waiting(known: set[int]) -> Iterator[dict[int, int]]:
    """Bytes of what autograd keeps, by where it lies, without the weights that are ``known``."""
    found: dict[int, int] = {}
    held: list[Tensor] = []  # so that no place is used twice

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known and place not in found:
            found[place] = tensor.untyped_storage().nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def _timed(step: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    float(step())  # waits for the device
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
