"""Training on the models that ComfyUI holds: gradients through its FLUX, into the adapter only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ...dino.encode import EncodeSettings
from ...dino.feature_map import FeatureMap
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.rows import DinoRow
from . import host
from .host import Wrappers
from .inject import cond_key

ACTIVATIONS = {True: 4, False: 40}  # by checkpointing: memory of a training step over an inference step's; a guess


class ComfyHost:
    """``training.hosts.Host`` on ComfyUI's own FLUX, VAE and DINO. Make and use it inside ``gradients``.

    FLUX is a clone that shares its weights with the given model. It is loaded whole: weights that ComfyUI brings in and
    out while it computes would be gone before the backward pass. Models under ComfyUI's dynamic memory are therefore read
    from their file again, which costs their size in memory for as long as the training lasts.
    """

    def __init__(
        self,
        model: Any,
        vae: Any,
        dino: host.HostDino,
        adapter: DinoAdapter,
        *,
        guidance: float = 1.0,
        gradient_checkpointing: bool = True,
    ) -> None:
        host.check_vae(vae)
        self.geometry = host.flux_geometry(model)
        self.device = model.load_device
        self.dtype = compute_dtype(model)
        self.adapter = adapter.to(self.device, torch.float32)
        self.vae, self.dino, self.guidance = vae, dino, guidance
        self.activations = ACTIVATIONS[gradient_checkpointing]
        self.patcher = host.patch_flux(model.clone(disable_dynamic=True), host.HostAdapter(self.adapter, None))
        for kind in ("double_block", "single_block"):
            _train_blocks(self.patcher, kind, checkpointing=gradient_checkpointing)
        options = comfy.model_patcher.create_model_options_clone(self.patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, {}, options)
        self.options = {**options["transformer_options"], "optimized_attention_override": _attention}
        self._load([1, self.vae.latent_channels, 64, 64])
        self.patcher.unpin_all_weights()
        keep_for_backward(self.patcher.model.diffusion_model)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents = self.vae.encode(pixels.movedim(1, -1))
        return self.patcher.model.process_latent_in(latents).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels = self.vae.decode(self.patcher.model.process_latent_out(latents))
        return pixels.movedim(-1, 1).float().clamp(0, 1)

    def features(self, pixels: Tensor, settings: EncodeSettings) -> FeatureMap:
        return self.dino.encoder.encode(pixels, settings=settings, device=self.dino.patcher.load_device)

    def velocity(
        self, latents: Tensor, sigmas: Tensor, *, context: Tensor, pooled: Tensor, rows: Sequence[DinoRow]
    ) -> Tensor:
        self._load(list(latents.shape))
        found: list[Tensor] = []

        def keep(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
            found.append(executor(*args, **kwargs))
            return found[0]

        wrappers = {**self.options["wrappers"]}
        wrappers[Wrappers.DIFFUSION_MODEL] = {**wrappers.get(Wrappers.DIFFUSION_MODEL, {}), "dinotile_velocity": [keep]}
        self.patcher.model.apply_model(
            latents,
            sigmas,
            c_crossattn=context,
            transformer_options={**self.options, "wrappers": wrappers},
            y=pooled,
            guidance=torch.full_like(sigmas, self.guidance),
            **{cond_key(self.adapter): tuple(rows)},
        )
        return found[0].float()

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the length of a training: the host knows whose turn it is."""
        self.patcher.pre_run()
        try:
            yield
        finally:
            self.patcher.cleanup()

    def _load(self, shape: list[int]) -> None:
        memory = self.activations * self.patcher.memory_required(shape)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory, force_full_load=True)


@contextmanager
def gradients() -> Iterator[None]:
    """Leave the inference mode in which the host runs nodes, and let its FLUX use operations that have a gradient."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # norms under autocast
            yield
    finally:
        comfy.model_management.in_training = before


def keep_for_backward(module: nn.Module) -> None:
    """Give a module weights that autograd may keep, where it was loaded in inference mode; the values stay.

    Costs a copy of one weight at a time. Weights that were moved since keep their memory and lose only the mark.
    """
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            data = weight.data.clone() if weight.is_inference() else weight.data
            setattr(part, name, nn.Parameter(data, requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.clone() if buffer.is_inference() else buffer)


def compute_dtype(model: Any) -> torch.dtype:
    """In which the host will compute a MODEL."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def _attention(chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
    """torch's attention, whatever the host uses: SageAttention and its like have no gradient."""
    return attention_pytorch(*args, **kwargs)


def _train_blocks(patcher: Any, kind: str, *, checkpointing: bool) -> None:
    before = patcher.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
    for number, block in enumerate(getattr(patcher.model.diffusion_model, f"{kind}s")):
        trained = TrainedBlock(block, before.get((kind, number)), checkpointing=checkpointing)
        patcher.set_model_patch_replace(trained, "dit", kind, number)


class TrainedBlock:
    """patches_replace: a block of FLUX, or what stood in its place, with a right backward pass.

    checkpointing: its activations are computed again then, instead of being kept. The block is called by itself, because
    the host's ``original_block`` is whichever block the host is at when it is called.
    """

    def __init__(self, block: nn.Module, inner: Any, *, checkpointing: bool) -> None:
        self.block, self.inner, self.checkpointing = block, inner, checkpointing

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Tensor]:
        names = [name for name in ("img", "txt") if name in args]
        options = dict(args["transformer_options"])  # the host goes on to change its own

        def run(*streams: Tensor) -> tuple[Tensor, ...]:
            given = {**args, "transformer_options": options}
            given.update((name, stream.clone()) for name, stream in zip(names, streams, strict=True))
            with NormInputs():
                out = (
                    self._run(given)
                    if self.inner is None
                    else self.inner(given, {**extra, "original_block": self._run})
                )
            return tuple(out[name] for name in names)

        streams = [args[name] for name in names]
        if self.checkpointing:
            found = checkpoint(run, *streams, use_reentrant=False, preserve_rng_state=False)
        else:
            found = run(*streams)
        return dict(zip(names, found, strict=True))

    def _run(self, args: dict[str, Any]) -> dict[str, Tensor]:
        rest = {name: args[name] for name in ("vec", "pe", "attn_mask", "transformer_options")}
        if "txt" not in args:
            return {"img": self.block(args["img"], **rest)}
        img, txt = self.block(args["img"], args["txt"], **rest)
        return {"img": img, "txt": txt}


class NormInputs(TorchFunctionMode):
    """Layer norms keep a copy of their input for the backward pass, because FLUX's blocks then add to it in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.layer_norm:
            args = (args[0].clone(), *args[1:])
        return func(*args, **(kwargs or {}))
