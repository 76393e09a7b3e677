"""`salm demo`: everyday sounds in simulated rooms, indexed and asked for "dog barking from the northwest"."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salm.cli import console
from salm.cli.locate import demo_folder
from salm.cli.retrieve import compass, degrees, shown_path
from salm.progress import progress_on_stderr

if TYPE_CHECKING:
    from salm_index import Hit

    from salm.manifest import Scene

QUERY = "dog barking from the northwest"


def demo(
    sounds: Annotated[
        Path | None, typer.Option("--sounds", help="Folder of recordings to use [default: sounds made in code].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for scenes and index [default: the user's cache folder].")
    ] = None,
    query: Annotated[str | None, typer.Option("--query", help=f'What to look for [default: "{QUERY}"].')] = None,
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="How many hits.")] = 10,
    model: console.ModelName = "salm-small",
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Simulate, index and search everyday sounds. Their true directions stand beside the predicted ones."""
    folder = out or (demo_folder() if sounds is None else demo_folder().with_name("demo-sounds"))
    with console.resumable("run salm demo again"):
        scenes = _write_scenes(folder, sounds, quiet)
        query = query or _default_query(scenes)
        hits = _search(folder, query, k, model, quiet)
    if as_json:
        from salm.cli.search import hit_to_json

        answer = {"query": query, "index": str(folder / "demo.index"), "scenes": len(scenes)}
        console.print_json(answer | {"hits": [hit_to_json(hit) for hit in hits]})
        return
    typer.echo(f'"{query}" in {len(scenes)} scenes:\n')
    _print_hits(hits)
    _print_next(folder, _another_query(scenes), is_default=out is None and sounds is None)


def _write_scenes(folder: Path, sounds: Path | None, quiet: bool) -> "list[Scene]":
    console.require_extra("scenes", "simulating rooms", "scipy")
    from salm.cli.demo_scenes import everyday_sounds, recorded_sounds, write_demo_scenes
    from salm.cli.indexing import find_recordings

    chosen = everyday_sounds() if sounds is None else recorded_sounds(find_recordings(sounds), sounds)
    with progress_on_stderr("rooms", quiet=quiet) as progress:
        return write_demo_scenes(folder, chosen, progress)


def _search(folder: Path, query: str, k: int, model: str, quiet: bool) -> "list[Hit]":
    from salm_index import ModelMismatchError, SchemaVersionError

    from salm.cli.indexing import update_index
    from salm.cli.search import search_index

    index_path = folder / "demo.index"
    with progress_on_stderr("indexing", quiet=quiet) as progress:
        try:
            update_index(folder, index_path, model=model, prune=True, progress=progress)
        except (ModelMismatchError, SchemaVersionError):
            # The demo's own index, made by another version: it is made again in seconds.
            shutil.rmtree(index_path)
            update_index(folder, index_path, model=model, prune=True, progress=progress)
    return search_index(index_path, query, k, model)


def _default_query(scenes: "list[Scene]") -> str:
    """The dog where there is one; else the first label, which has a scene in the northwest as well."""
    labels = [scene.sources[0].label for scene in scenes]
    return QUERY if any("dog" in label for label in labels) else f"{labels[0]} from the northwest"


def _print_hits(hits: "list[Hit]") -> None:
    rows = [
        (
            str(hit.rank),
            f"{hit.score:.3f}",
            str(hit.metadata.get("label", "")),
            _direction(hit.metadata.get("true_azimuth_deg"), hit.metadata.get("true_elevation_deg")),
            _direction(hit.azimuth_deg, hit.elevation_deg),
            shown_path(hit.path),
        )
        for hit in hits
    ]
    console.print_table(("rank", "score", "true label", "true direction", "predicted direction", "path"), rows)


def _direction(azimuth_deg: float | None, elevation_deg: float | None) -> str:
    """Such as "northwest   +45°  -3°" (azimuth, elevation)."""
    if azimuth_deg is None:
        return ""
    return f"{compass(azimuth_deg):9} {degrees(azimuth_deg):>5} {degrees(elevation_deg):>4}"


def _another_query(scenes: "list[Scene]") -> str:
    """A query that a scene of the second half answers."""
    source = scenes[3 * len(scenes) // 4].sources[0]
    return f"{source.label} from the {compass(source.azimuth_deg)}"


def _print_next(folder: Path, another_query: str, *, is_default: bool) -> None:
    typer.echo(
        f"\nScenes: {folder / 'foa'} (FOA flac; W, Y, Z, X)\nTruth:  {folder / 'scenes.jsonl'}\n"
        f"Index:  {folder / 'demo.index'}\n\nNext:"
    )
    option = "" if is_default else f" --index {folder / 'demo.index'}"
    typer.echo(f'  salm-retrieve "{another_query}"{option}')
    typer.echo("  salm index DIR --out salm.index      your own FOA recordings")
    typer.echo("  salm demo --sounds DIR               your own sounds, in simulated rooms")
