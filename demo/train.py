"""Trains the demo's models from scratch on a CPU: `python demo/train.py --part all --minutes 20`.

--minutes is the time for each part. FLUX needs the VAE's file, the decoder's polish needs both; VAE and DINO need nothing.
The adapter is trained by `python -m benchmarks.semantics.train`, with the package's own trainer. Two cores with bf16
matrix units (AMX) do it all in about two hours. pictures.py lists what they learn from and what is held out: skimage's
cat "chelsea" is never trained on, and sample.jpg is made from it (CC0).
"""

import argparse
import logging

import torch

from dinotile.demo import SAMPLE, train_decoder, train_dino, train_flux, train_vae
from dinotile.demo.pictures import write_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("vae", "dino", "flux", "decoder", "all"), default="all")
    parser.add_argument("--minutes", type=float, default=20.0, help="time for each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="start from the files in demo/")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster where another job uses a core")
    parser.add_argument(
        "--compile", action="store_true", help="FLUX with torch.compile: half again as fast, needs a C++ compiler"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    write_sample(SAMPLE)
    if options.part in ("vae", "all"):
        train_vae.train(minutes=options.minutes, seed=options.seed, resume=options.resume)
    if options.part in ("dino", "all"):
        train_dino.train(minutes=options.minutes, seed=options.seed)
    if options.part in ("flux", "all"):
        train_flux.train(minutes=options.minutes, seed=options.seed, resume=options.resume, compiled=options.compile)
    if options.part in ("decoder", "all"):
        train_decoder.train(minutes=options.minutes, seed=options.seed)


if __name__ == "__main__":
    main()
