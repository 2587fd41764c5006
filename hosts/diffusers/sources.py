"""Where models lie: the FLUX models that are known by name, files, diffusers folders and hub names."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ... import demo
from ...files.errors import printable
from ...files.kinds import SUFFIXES
from ...files.paths import expanded
from ...files.weights import INDEX, WEIGHTS, indexed_files
from .configs import read_config
from .hub import why_not_from_hub

Source = str | Path
BICUBIC = "bicubic"  # the upscale model that is none
HUB_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
FILES = ".safetensors .sft .bin .pt .pth .ckpt .gguf .onnx .h5 .msgpack .json .yaml .zip .tar .gz .txt .index"
ENDINGS = {*FILES.split(), *SUFFIXES}

log = logging.getLogger("dinotile")


@dataclass(frozen=True)
class Variant:
    """Where a model's files come from, and what upscaling with it is usually set to.

    repository: on the Hugging Face hub; empty: the models of this package's demo folder. dynamic_shift: whether the noise
    levels are shifted by the size of a tile. text_tokens: of T5 or of FLUX.2's encoder, 0 where the model has no text
    encoders. guidance: of dev models. cfg: of those that are not distilled.
    """

    name: str
    repository: str
    steps: int
    tile: int
    overlap: int
    fidelity: float
    vae_detail: float
    dynamic_shift: bool
    text_tokens: int
    guidance: float = 3.5
    cfg: float = 1.0


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in [
        Variant("demo", "", 6, 256, 32, 1.0, 1.0, False, 0),
        Variant("schnell", "black-forest-labs/FLUX.1-schnell", 4, 1024, 128, 0.0, 0.0, False, 256),
        Variant("dev", "black-forest-labs/FLUX.1-dev", 20, 1024, 128, 0.0, 0.0, True, 512),
        Variant("klein", "black-forest-labs/FLUX.2-klein-4B", 4, 1024, 128, 0.0, 0.0, True, 512),
        Variant("klein-base", "black-forest-labs/FLUX.2-klein-base-4B", 20, 1024, 128, 0.0, 0.0, True, 512, cfg=4.0),
        Variant("flux2-dev", "black-forest-labs/FLUX.2-dev", 20, 1024, 128, 0.0, 0.0, True, 512, guidance=4.0),
    ]
}
REPOSITORIES = tuple(variant.repository for variant in VARIANTS.values() if variant.repository)


def find_variant(name: str) -> Variant:
    if not isinstance(name, str) or name not in VARIANTS:
        raise ValueError(f"variant {name!r} must be one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a run; dino, adapter and upscale_model are None where nobody named one and the variant has none."""

    flux: Source
    vae: Source
    dino: Source | None
    adapter: Source | None
    upscale_model: Source | None


def model_files(
    variant: str,
    *,
    model_path: Source | None = None,
    vae_path: Source | None = None,
    dino: Source | None = None,
    adapter: Source | None = None,
    upscale_model: Source | None = None,
) -> ModelFiles:
    """What was given, else the variant's own; a VAE that comes with the model goes before the variant's, and
    ``BICUBIC`` is no upscale model."""
    usual = find_variant(variant)
    flux: Source = model_path or usual.repository or demo.FLUX
    path = local_path(flux)
    brought = flux if path is None or (path / "vae").is_dir() else None
    if flux == demo.FLUX:
        dino, adapter = dino or demo.DINO, adapter or demo.ADAPTER
        upscale_model = upscale_model or demo.UPSCALER
    if str(upscale_model) == BICUBIC:
        upscale_model = None
    vae = vae_path or brought or usual.repository or demo.VAE
    return ModelFiles(flux, vae, dino or None, adapter or None, upscale_model or None)


def dino_path(source: Source) -> Path:
    """The DINO file or folder that ``source`` names; of a hub name, its downloaded model.safetensors or first shard."""
    path = local_path(source)
    if path is not None:
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with loading(source, examples=("facebook/dinov2-small",)):
        try:
            return Path(hf_hub_download(str(source), WEIGHTS))
        except EntryNotFoundError as error:
            unreached = isinstance(error, LocalEntryNotFoundError)  # then shards may be on this disk
            index = Path(hf_hub_download(str(source), INDEX, local_files_only=unreached))
        return [Path(hf_hub_download(str(source), name)) for name in indexed_files(index)][0]


def hub_component(name: str, part: str, *, kinds: Sequence[str]) -> dict[str, str]:
    """Arguments of from_pretrained for one model of a hub name: that of a pipeline, which lies in the folder ``part``, or a
    repository that is that model, where its config says one of ``kinds`` (parts of the names of classes)."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def config(*folder: str) -> Path | EntryNotFoundError:
        try:
            return Path(hf_hub_download(name, "/".join((*folder, "config.json"))))
        except EntryNotFoundError as error:
            return error

    whole = {"pretrained_model_name_or_path": name}
    with loading(name):
        inner = config(part)
        if isinstance(inner, LocalEntryNotFoundError) and not constants.HF_HUB_OFFLINE:
            raise inner  # there is no answer, whatever is asked for
        alone = config() if isinstance(inner, EntryNotFoundError) else None
        if isinstance(alone, Path) and any(kind in str(read_config(alone.parent).get("_class_name")) for kind in kinds):
            return whole
        if isinstance(inner, EntryNotFoundError):
            raise inner
    return {**whole, "subfolder": part}


def local_path(source: Source) -> Path | None:
    """The existing file or folder that ``source`` names, or None where it is a hub name.

    A hub name is owner/name without the ending of a file, where no folder ``owner`` is here: else it is a mistyped path.
    """
    path = expanded(source)
    if os.path.exists(path):  # False, where Path.exists raises, for names that are too long
        return path
    named = isinstance(source, str) and HUB_NAME.fullmatch(source) and path.suffix.lower() not in ENDINGS
    if not named:
        said = printable(str(source), most=200)
        raise ValueError(f"there is no model {said}: give a .safetensors file, its folder or a hub name (owner/name)")
    if path.parent.is_dir():
        raise ValueError(
            f"there is no model {source}, and as folder {path.parent} is here it is not looked for on the hub: correct the "
            "path, or start elsewhere for the hub's"
        )
    return None


def cached_commit(name: str) -> str:
    """The commit of a hub name that this machine has, empty where it has none; the hub is not asked."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    reference = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "refs", "main")
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""


@cache
def _say(name: str) -> None:
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        log.warning("looking on the Hugging Face hub for %s", name)


@contextmanager
def loading(source: Source, *, examples: Sequence[str] = REPOSITORIES) -> Iterator[None]:
    """Turn what diffusers, transformers and the hub's client raise on a model that cannot be read into one ValueError.

    That the hub is asked for it is said once.
    """
    remote = local_path(source) is None
    if remote:
        _say(str(source))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="huggingface_hub")  # diffusers calls it by options that it dropped
            yield
    except Exception as error:  # also errors of the libraries' own kinds, which differ by their versions
        if remote:
            raise ValueError(why_not_from_hub(str(source), error, examples=examples)) from error
        reason = f"{type(error).__name__}: {printable(' '.join(str(error).split()), most=300)}"
        raise ValueError(f"{source} does not hold a whole model ({reason}): download it again") from error
