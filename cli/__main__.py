"""The ``dinotile`` command, also as ``python -m dinotile.cli``, which ``accelerate launch`` starts in every process."""

from __future__ import annotations

import sys

EXTRAS = {"cli": ("accelerate", "diffusers", "rich", "typer", "websocket"), "train": ("braceexpand", "webdataset")}


def main() -> None:
    """Entry point: a library of an extra that is not installed is one line and exit code 2."""
    try:
        from .app import main as run

        run()
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        for extra, libraries in EXTRAS.items():
            if library in libraries:
                sys.stderr.write(f'dinotile: {library} is not installed: pip install "dinotile[{extra}]"\n')
                sys.exit(2)
        raise


if __name__ == "__main__":
    main()
