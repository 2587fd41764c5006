"""``python -m dinotile.cli``: the ``dinotile`` command, as ``accelerate launch`` starts it in every process."""

from .app import main

if __name__ == "__main__":
    main()
