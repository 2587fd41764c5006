#!/usr/bin/env bash
# What only a GPU can show, at FLUX.1's size with random weights, in under six minutes: see benchmarks/gpu/run.py.
#
#     COMFYUI_PATH=... bash benchmarks/gpu.sh [--rehearse] [--json FILE] [PART ...]
#
# Needs nothing installed of this repository: Python is PYTHON, or python3, and ComfyUI's own for what runs inside of it.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
ln -s "$repository" "$place/dinotile"
export HF_HUB_OFFLINE=1 PYTHONPATH="$place${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python3}" "$repository/benchmarks/gpu/run.py" "$@"
