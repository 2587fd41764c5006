"""Small models of FLUX's real architecture, trained by demo/train.py: where their files lie."""

from pathlib import Path

DEMO = Path(__file__).parent
FLUX = DEMO / "flux"
VAE = DEMO / "vae.safetensors"
DINO = DEMO / "dino.safetensors"
SAMPLE = DEMO / "sample.jpg"
