"""Nodes around FlatDINO, which keeps DINO features in few tokens."""

from __future__ import annotations

from comfy_api.latest import io

from ..hosts.comfy.compress import load_host_flat
from ..hosts.comfy.folders import model_files, model_state
from . import sockets
from .sockets import number

CATEGORY = f"{sockets.CATEGORY}/DINO"


class LoadFlatDino(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_LoadFlatDino",
            display_name="Load FlatDINO",
            category=CATEGORY,
            description="Loads a FlatDINO, which turns the patches of one DINO into few tokens and back, from models/flatdino.",
            search_aliases=["flatdino", "compress dino", "token compression"],
            inputs=[
                io.Combo.Input(
                    "flat_name",
                    options=model_files("flatdino"),
                    tooltip="A .safetensors file of `dinotile flatdino train`. Usual: one for the DINO that you extract with.",
                ),
            ],
            outputs=[sockets.Flat.Output(display_name="flatdino", tooltip="The FlatDINO.")],
        )

    @classmethod
    def execute(cls, flat_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_flat(flat_name))

    @classmethod
    def fingerprint_inputs(cls, flat_name) -> list:
        return model_state(flat_name, "flatdino")


class CompressFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_CompressFeatures",
            display_name="Compress DINO Features",
            category=CATEGORY,
            description="Turns the patches of whole pictures into the few tokens of a FlatDINO; the class token stays as it is.",
            search_aliases=["flatdino encode", "dino tokens", "dino latents"],
            inputs=[
                sockets.Flat.Input("flatdino", tooltip="From Load FlatDINO."),
                sockets.Features.Input(
                    "features",
                    tooltip="From Extract DINO Patches, of the DINO, layers and number of patches that the FlatDINO is made for.",
                ),
            ],
            outputs=[sockets.Compressed.Output(display_name="compressed", tooltip="The tokens of each picture.")],
        )

    @classmethod
    def execute(cls, flatdino, features) -> io.NodeOutput:
        return io.NodeOutput(flatdino.compress(features))


class RestoreFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_RestoreFeatures",
            display_name="Restore DINO Features",
            category=CATEGORY,
            description="Turns the tokens of a FlatDINO back into patches, which go wherever DINO features go.",
            search_aliases=["flatdino decode", "decompress dino"],
            inputs=[
                sockets.Flat.Input("flatdino", tooltip="The FlatDINO that made the tokens."),
                sockets.Compressed.Input("compressed", tooltip="From Compress DINO Features."),
                number(
                    "keep",
                    (0, 0, 1024),
                    "Tokens to restore from, the first ones; 0: all (usual). Others need a FlatDINO with nested tokens.",
                ),
            ],
            outputs=[sockets.Features.Output(display_name="features", tooltip="Restored patches and the class token.")],
        )

    @classmethod
    def execute(cls, flatdino, compressed, keep) -> io.NodeOutput:
        return io.NodeOutput(flatdino.restore(compressed, keep=keep))
