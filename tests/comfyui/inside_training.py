"""Runs inside the host's Python like inside.py: training on ComfyUI's own models, measured.

python inside_training.py HOST PACK BASE OUT [CHECK ...] writes OUT/numbers.json and the tensors that test_training_parity.py
compares with diffusers. test_training*.py hold what the numbers must be.
"""

from inside_tools import main  # makes the host's and the pack's modules importable

# isort: split

import inside_gradients  # noqa: F401
import inside_refused  # noqa: F401
import inside_resumed  # noqa: F401
import inside_trained  # noqa: F401

if __name__ == "__main__":
    main()
