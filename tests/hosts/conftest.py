from ..flux_patch.conftest import *  # noqa: F403
