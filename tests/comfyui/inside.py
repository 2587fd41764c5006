"""Runs inside the host's Python: the pack on tiny models through ComfyUI's real samplers, measured.

python inside.py HOST PACK BASE OUT [CHECK ...] writes OUT/numbers.json, {check: {number: value}}, and the tensors that
test_parity.py compares with diffusers. test_inside_*.py hold what the numbers must be.
"""

from inside_tools import main  # makes the host's and the pack's modules importable

# isort: split
import inside_areas  # noqa: F401
import inside_around  # noqa: F401
import inside_compress  # noqa: F401
import inside_controlnets  # noqa: F401
import inside_controls  # noqa: F401
import inside_dino  # noqa: F401
import inside_encoders  # noqa: F401
import inside_estimates  # noqa: F401
import inside_families  # noqa: F401
import inside_flux2  # noqa: F401
import inside_fp8  # noqa: F401
import inside_guidance  # noqa: F401
import inside_guiders  # noqa: F401
import inside_hint_patches  # noqa: F401
import inside_hints  # noqa: F401
import inside_memory  # noqa: F401
import inside_models  # noqa: F401
import inside_moving  # noqa: F401
import inside_patches  # noqa: F401
import inside_pictures  # noqa: F401
import inside_plugged  # noqa: F401
import inside_positions  # noqa: F401
import inside_progress  # noqa: F401
import inside_rare  # noqa: F401
import inside_regions  # noqa: F401
import inside_retry  # noqa: F401
import inside_sequential  # noqa: F401
import inside_tiles  # noqa: F401
import inside_upscale  # noqa: F401
import inside_vae  # noqa: F401

if __name__ == "__main__":
    main()
