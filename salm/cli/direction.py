"""`salm direction`: where the sound of a recording comes from, by the direction prompts and by the DOA head."""

from pathlib import Path
from typing import Annotated

import typer

from salm.cli import console


def direction(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FOA recording.")],
    model: console.ModelName = "salm-small",
    convention: console.Convention = "ambix",
    windows: Annotated[bool, typer.Option("--windows", help="One answer for each window of 10 s.")] = False,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Say where a sound comes from. Zero-shot over the eight compass words, and the DOA head, side by side."""
    raise NotImplementedError
