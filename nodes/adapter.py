"""Nodes around the adapter: load, make, save, project, patch."""

from __future__ import annotations

from typing import cast

from comfy_api.latest import io, ui

from ..flux_patch.adapter_config import adapter_config, spread_sites
from ..flux_patch.checkpoint import save_adapter
from ..flux_patch.families import FAMILIES, MECHANISMS, Mechanism
from ..flux_patch.geometry import FluxGeometry
from ..flux_patch.guide import PictureGuide
from ..flux_patch.schedule import PROFILES, Strength
from ..hosts.comfy.adapter import load_host_adapter, new_host_adapter
from ..hosts.comfy.folders import adapter_name, adapter_path, lost_adapters, model_files, model_state, note_written
from ..hosts.comfy.model import attach, empty_conditioning, flux_geometry, patch_flux
from . import sockets
from .sockets import SEED, layers, number

CATEGORY = f"{sockets.CATEGORY}/FLUX"
ALL = "all"


def adapter_inputs(*, mechanisms: str) -> list[io.Input]:
    """What a new adapter is made of; ``mechanisms`` is the tooltip of that input."""
    return [
        layers(),
        io.Combo.Input("mechanisms", options=[*MECHANISMS, ALL], default="cross_attention", tooltip=mechanisms),
        number("width", (1024, 8, 4096, 8), "Channels of the adapter's tokens. Usual: 1024."),
        number("grid", (16, 1, 64), "DINO tokens per side of a tile. Usual: 16 (256 tokens)."),
    ]


def chosen_mechanisms(name: str, geometry: FluxGeometry) -> tuple[Mechanism, ...]:
    """Of that input: one, or all that the FLUX can have."""
    return FAMILIES[geometry.family].mechanisms if name == ALL else (cast(Mechanism, name),)


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_LoadAdapter",
            display_name="Load DINO Adapter",
            category=CATEGORY,
            description="Loads a DINOTile adapter from models/model_patches.",
            search_aliases=["dinov2 adapter", "ip adapter", "adapter loader"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=model_files("model_patches"),
                    tooltip="A .safetensors file that DINOTile saved or trained. It fits one DINO, its layers and one FLUX.",
                ),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter", tooltip="The adapter.")],
        )

    @classmethod
    def execute(cls, adapter_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_adapter(adapter_name))

    @classmethod
    def fingerprint_inputs(cls, adapter_name) -> list:
        return model_state(adapter_name, "model_patches")


class NewAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_NewAdapter",
            display_name="New DINO Adapter",
            category=CATEGORY,
            description="Makes an untrained adapter for a FLUX and a DINO model. It changes nothing until it is trained.",
            search_aliases=["create adapter", "make adapter"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter is for: FLUX.1, FLUX.2, Chroma or Krea 2."),
                sockets.Dino.Input("dino", tooltip="The DINO model that the adapter is for."),
                *adapter_inputs(
                    mechanisms="How DINO enters FLUX: cross_attention in chosen blocks (local, usual), context tokens beside "
                    "the text (global), vector into the modulation (global, FLUX.1 only), or all.",
                ),
                number("double_every", (2, 0, 64), "Cross-attention in every n-th double block, 0: none. Usual: 2."),
                number("single_every", (4, 0, 64), "Cross-attention in every n-th single block, 0: none. Usual: 4."),
                number("init_seed", SEED, "Seed of the initial weights. Usual: 0."),
                *sockets.encoding(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter", tooltip="The untrained adapter.")],
        )

    @classmethod
    def execute(
        cls, model, dino, layers, mechanisms, width, grid, double_every, single_every, init_seed, context_grid=4, crops=1,
        scales="averaged",
    ) -> io.NodeOutput:  # fmt: skip
        geometry = flux_geometry(model)
        sites = spread_sites(geometry, double_every=double_every, single_every=single_every)
        config = adapter_config(
            dino.spec,
            geometry,
            layers=layers,
            crops=crops,
            scales=scales,
            mechanisms=chosen_mechanisms(mechanisms, geometry),
            sites=sites,
            width=width,
            grid=grid,
            context_grid=context_grid,
        )
        return io.NodeOutput(new_host_adapter(config, seed=init_seed))


class SaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_SaveAdapter",
            display_name="Save DINO Adapter",
            category=CATEGORY,
            description="Writes an adapter into ComfyUI's output folder. Move the file to models/model_patches to load it.",
            search_aliases=["export adapter", "write adapter"],
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="The adapter to write."),
                io.String.Input(
                    "filename_prefix",
                    default="adapters/dinotile",
                    tooltip="Folder and name below the output folder; a number is added.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, adapter, filename_prefix) -> io.NodeOutput:
        path = adapter_path(filename_prefix, below="output")
        save_adapter(adapter.adapter.module, path, trained=adapter.adapter.trained)
        note_written(filename_prefix, path)
        return io.NodeOutput(ui=ui.PreviewText(f"Saved {adapter_name(path, below='output')}"))

    @classmethod
    def fingerprint_inputs(cls, adapter, filename_prefix) -> int:
        return lost_adapters(filename_prefix)


class ProjectConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_ProjectConditioning",
            display_name="Project DINO Conditioning",
            category=CATEGORY,
            description="Adds the picture's DINO tokens to the positive conditioning, the learned null to the negative.",
            search_aliases=["apply dino", "dinov2 conditioning", "image prompt", "ip adapter"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="Text or empty conditioning; its DINO tokens come from the features."
                ),
                sockets.Adapter.Input("adapter", tooltip="The same adapter as in Patch FLUX with DINO."),
                sockets.Features.Input(
                    "features", tooltip="From Extract DINO Patches, with the adapter's DINO model and layers."
                ),
                number(
                    "strength",
                    (1.0, 0.0, 2.0, 0.01),
                    "Factor, 0 to 2: 0 is off (FLUX's own result, bit for bit), 1 is as trained. Usual: 0.5 to 1.5.",
                ),
                number(
                    "start_percent",
                    (0.0, 0.0, 1.0, 0.001),
                    "Where in the schedule DINO begins: 0 is pure noise, 1 the finished picture. Usual: 0.",
                ),
                number(
                    "end_percent", (1.0, 0.0, 1.0, 0.001), "Where in the schedule DINO ends, 0 to 1. Usual: 0.8 to 1."
                ),
                io.Combo.Input(
                    "profile",
                    options=list(PROFILES),
                    default="flat",
                    tooltip="Weight over FLUX's depth: flat (usual), early (falls with depth) or late (rises).",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="For CFG above 1; gets the learned null. Without: the positive text with the null.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where DINO acts, over the whole picture: 1 fully, 0 not at all."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the picture's tokens."),
                io.Conditioning.Output(display_name="negative", tooltip="With the learned null."),
            ],
        )

    @classmethod
    def execute(
        cls, positive, adapter, features, strength, start_percent, end_percent, profile, negative=None, mask=None
    ) -> io.NodeOutput:
        mask = sockets.mask_over(mask, *features.image_size, name="DINO")
        settings = Strength(strength, start_percent, end_percent, profile, mask)
        guide, null = (PictureGuide(tokens, settings) for tokens in (adapter.project(features), None))
        return io.NodeOutput(
            attach(positive, adapter.adapter, guide),
            attach(positive if negative is None else negative, adapter.adapter, null),
        )


class PatchFlux(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_PatchFlux",
            display_name="Patch FLUX with DINO",
            category=CATEGORY,
            description="Lets a FLUX model read the DINO tokens of its conditioning. Without such tokens it stays as it was.",
            search_aliases=["apply adapter", "apply dino", "flux dinov2"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="FLUX.1 (dev, schnell, Krea, Kontext, Fill), FLUX.2 (dev, klein), Chroma or Krea 2, with or without "
                    "LoRAs.",
                ),
                sockets.Adapter.Input("adapter", tooltip="The adapter; it must have been made for this FLUX."),
            ],
            outputs=[io.Model.Output(tooltip="The patched model; the given one is not changed.")],
        )

    @classmethod
    def execute(cls, model, adapter) -> io.NodeOutput:
        return io.NodeOutput(patch_flux(model, adapter))


class EmptyConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_EmptyConditioning",
            display_name="Empty FLUX Conditioning",
            category=CATEGORY,
            description="A conditioning without text, so that a graph runs with no text encoder.",
            search_aliases=["no prompt", "no text encoder", "null conditioning", "zero out"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX model; its text widths are taken."),
                number("tokens", (8, 1, 512), "Null text tokens. Usual: 8; more cost time. FLUX.2 has 512."),
                number("guidance", (3.5, 0.0, 100.0, 0.1), "FLUX guidance, for dev. Usual: 3.5; schnell ignores it."),
            ],
            outputs=[io.Conditioning.Output(tooltip="Zero text tokens, and in FLUX.1 a zero pooled vector.")],
        )

    @classmethod
    def execute(cls, model, tokens, guidance) -> io.NodeOutput:
        return io.NodeOutput(empty_conditioning(model, tokens=tokens, guidance=guidance))
