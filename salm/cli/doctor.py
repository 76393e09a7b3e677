"""`salm doctor`: what a file is, and whether SALM can use it."""

from pathlib import Path
from typing import Annotated

import typer

from salm.cli import console


def doctor(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings.")],
    as_json: console.AsJson = False,
) -> None:
    """Examine recordings. Rate, channels, level, defects, and whether the channel order looks right."""
    raise NotImplementedError
