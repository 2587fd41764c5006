"""Tools of the checks that run inside the host's Python: tiny models through ComfyUI's real samplers, watched and compared."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

HOST, PACK, BASE, OUT = (Path(argument).absolute() for argument in sys.argv[1:5])
sys.path.insert(0, str(HOST))

from comfy.cli_args import args  # noqa: E402

args.cpu = os.environ.get("DINOTILE_DEVICE", "cpu") == "cpu"
args.base_directory = str(BASE)

import comfy.clip_vision  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402


def load_pack():
    spec = importlib.util.spec_from_file_location(
        "dinotile", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["dinotile"] = module
    spec.loader.exec_module(module)


torch.set_num_threads(1)  # the tests share their machine; waiting threads are slower than one
load_pack()
from dinotile import nodes  # noqa: E402
from dinotile.dino.feature_map import FeatureMap  # noqa: E402
from dinotile.flux_patch.families import CHROMA, FLUX1, FLUX2, KREA2, ModelFamily  # noqa: E402
from dinotile.hosts.comfy.folders import LISTED, model_path, register_folders  # noqa: E402

HEIGHT, WIDTH, TILE, OVERLAP = 160, 224, 64, 16  # px: 3 x 4 tiles and more where the plan is to be symmetric
ROWS, COLUMNS = HEIGHT // 8, WIDTH // 8
CONTEXT, VECTOR = 64, 48
PATCHES = BASE / "models" / "model_patches"
DEMO, DEMO_FLUX = "dinotile-demo", "dinotile-demo/diffusion_pytorch_model"


@dataclass(frozen=True)
class Kind:
    """A family of models in the checks. flux: its tiny file, or a family of inside_zoo.py. prefix: of its adapters' files. tile:
    side in px at FLUX.1's cells. steps: of a run. context: width of texts. framed: latents have a frame."""

    family: ModelFamily
    flux: str
    prefix: str
    tile: int
    steps: int
    context: int = CONTEXT
    framed: bool = False


KINDS = {
    "flux1": Kind(FLUX1, "flux", "", TILE, 3),
    "short": Kind(FLUX1, "flux-short", "short-", TILE, 3),  # a block of each kind
    "flux2": Kind(FLUX2, "flux2", "flux2-", 2 * TILE, 1),
    "chroma": Kind(CHROMA, "Chroma", "chroma-", TILE, 1),
    "krea2": Kind(KREA2, "Krea 2", "krea2-", TILE, 1, context=640, framed=True),
}
OWN_SIZES = {  # of the zoo's models here: more blocks of each kind, so that some have no site, and two heads
    "Chroma": {"context_in_dim": CONTEXT, "depth_single_blocks": 2},
    "Krea 2": {"features": 256, "heads": 2, "layers": 3},
}
_used = KINDS["flux1"]


def used() -> Kind:
    """The family that the check runs on. Its latents have as many cells as FLUX.1's, and so more px."""
    return _used


# Tools


def node(cls, *inputs, **named):
    """Outputs of one of the pack's nodes."""
    out = cls.execute(*inputs, **named).args
    return out[0] if len(out) == 1 else out


_loaded: dict[str, object] = {}


def flux(name: str | None = None):
    name = used().flux if name is None else name
    if name in OWN_SIZES:
        from inside_zoo import built

        return once(f"flux {name}", lambda: built(name, **OWN_SIZES[name]))
    path = model_path(f"{name}.safetensors", "diffusion_models")
    return once(f"flux {name}", lambda: comfy.sd.load_diffusion_model(path))


def fill_model():
    """The tiny FLUX with the 384 input channels per token of FLUX.1 Fill: noise, masked picture, 64 pixels of the mask."""
    state = comfy.utils.load_torch_file(str(BASE / "models" / "diffusion_models" / "flux.safetensors"))
    first = state["x_embedder.weight"]  # [256, 64]
    more = torch.randn(len(first), 320, generator=torch.Generator().manual_seed(6)) * 0.05
    return comfy.sd.load_diffusion_model_state_dict(state | {"x_embedder.weight": torch.cat([first, more], dim=1)})


def host_clip_vision(config: dict):
    """A CLIP_VISION of the host's own class; older hosts read the config from a file."""
    place = OUT / "clip_vision.json"
    place.write_text(json.dumps(config))
    return comfy.clip_vision.ClipVisionModel(place)


def adapter(name: str = "trained"):
    name = used().prefix + name
    return once(f"adapter {name}", lambda: node(nodes.LoadAdapter, f"{name}.safetensors"))


def dino():
    return once("dino", lambda: node(nodes.LoadDino, "dino.safetensors"))


def once(key: str, make):
    if key not in _loaded:
        _loaded[key] = make()
    return _loaded[key]


def picture(seed: int = 0, batch: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A soft random picture [B, H, W, 3]."""
    small = torch.rand(batch, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def folder(name: str, sizes: list[tuple[int, int]]) -> str:
    """A folder of soft random pictures, below one that the person has listed."""
    (BASE / "models" / LISTED).write_text(f"# data\n\n{OUT}\n")
    place = OUT / name
    place.mkdir(exist_ok=True)
    for seed, (height, width) in enumerate(sizes):
        array = picture(seed, height=height, width=width)[0].mul(255).round().byte().numpy()
        Image.fromarray(array).save(place / f"{seed}.png")
    return str(place)


def saved(name: str) -> list[Path]:
    """The adapters that a node saved with the prefix ``made/NAME``."""
    return sorted((PATCHES / "made").glob(f"{name}_*"))


def features(seed: int = 0, batch: int = 1, **size: int) -> FeatureMap:
    return node(nodes.ExtractPatches, dino(), picture(seed, batch, **size), "2/3", 224, 1)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit: what the very same weights gave."""
    return bool(torch.equal(a, b))


def near(a: Tensor, b: Tensor) -> bool:
    """What equal weights gave that were loaded, moved or patched anew, and so may lie elsewhere in memory."""
    return apart(a, b) <= 1e-6


def refusal(action) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


@contextlib.contextmanager
def using(kind: str):
    """Another one of ``KINDS`` than FLUX.1, for a check or a part of it."""
    global _used
    before, _used = _used, KINDS[kind]
    try:
        yield
    finally:
        _used = before


def check_families(function):
    """A check that also runs as ``flux2_NAME``, on FLUX.2."""
    return check_on(function, "flux2")


def check_every_family(function):
    """One that runs on each family of adapters, as ``chroma_NAME`` and so on."""
    return check_on(function, "flux2", "chroma", "krea2")


def check_on(function, *kinds: str):
    for kind in kinds:
        CHECKS[f"{kind}_{function.__name__}"] = using(kind)(function)
    return check(function)


def main() -> None:
    register_folders()
    chosen = sys.argv[5:] or list(CHECKS)
    numbers = {}
    for name in chosen:
        start = time.perf_counter()
        try:
            with torch.inference_mode():  # as the host's executor does
                numbers[name] = CHECKS[name]()
        except Exception:
            numbers[name] = {"error": traceback.format_exc()}
        seconds = time.perf_counter() - start
        print(f"{seconds:6.1f} s {name}", flush=True)  # noqa: T201
        (OUT / "numbers.json").write_text(json.dumps(numbers, indent=1))
