"""`salm pack`: folders of rendered scenes -> tar shards that training streams."""

from pathlib import Path
from typing import Annotated

import typer

from salm.cli import console
from salm.progress import progress_on_stderr


def pack(
    scenes: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCENES...", help="Scene manifests, or folders with scenes.jsonl; several are mixed evenly."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the shards; an interrupted one is completed.")],
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Scenes in a shard.")] = 1_000,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Pack rendered scenes into tar shards, the form in which hundreds of hours are trained on."""
    from salm.data.shards import interleave, pack_scenes, shard_name
    from salm.manifest import read_scenes

    manifests = [path / "scenes.jsonl" if path.is_dir() else path for path in scenes]
    rows = interleave([read_scenes(manifest, check_files=True) for manifest in manifests])
    again = f"run the same command again to complete {out}"
    with console.resumable(again), progress_on_stderr("packing", quiet=quiet) as progress:
        pack_scenes(rows, out, scenes_per_shard=per_shard, progress=progress)
    shards = -(-len(rows) // per_shard)
    if as_json:
        console.print_json({"folder": str(out), "scenes": len(rows), "shards": shards})
    else:
        typer.echo(f"{out}: {len(rows)} scenes in {shards} shards, {shard_name(0)} to {shard_name(shards - 1)}")
