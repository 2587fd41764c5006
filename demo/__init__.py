"""Small models of FLUX's real architecture, trained by demo/train/: where their files lie.

ComfyUI gets the folders as additional model folders, so that its own loaders list them as ``dinotile-demo``.
"""

from pathlib import Path

DEMO = Path(__file__).parent
FLUX = DEMO / "diffusion_models" / "dinotile-demo"
VAE = DEMO / "vae" / "dinotile-demo.safetensors"
DINO = DEMO / "dino" / "dinotile-demo.safetensors"
FLAT = DEMO / "flatdino" / "dinotile-demo.safetensors"
ADAPTER = DEMO / "model_patches" / "dinotile-demo.safetensors"
UPSCALER = DEMO / "upscale_models" / "dinotile-demo.safetensors"
SAMPLE = DEMO / "sample.jpg"
