"""``python -m dinotile.training CONFIG.yaml``: the command that ``accelerate launch`` starts in every process."""

import typer

from .train import train


def main() -> None:
    try:
        typer.run(train)
    except ValueError as error:
        typer.echo(f"dinotile: {error}", err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
