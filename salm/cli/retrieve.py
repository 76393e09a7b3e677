"""`salm retrieve`, also installed as `salm-retrieve`: a sentence or a recording -> a ranked list of windows."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salm.cli import console
from salm.cli.locate import Store, find_index, parse_store

if TYPE_CHECKING:
    from salm_index import Hit

EXAMPLE = '"dog barking from the northwest" --index salm.index -k 10'


def retrieve(
    query: Annotated[str | None, typer.Argument(help="A sentence, in quotes.", show_default=False)] = None,
    index: Annotated[
        Path | None,
        typer.Option("--index", help="Index folder [default: $SALM_INDEX, else ./salm.index, else the demo's]."),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="Instead of a folder: milvus:URI[#COLLECTION].")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="How many hits.")] = 10,
    model: Annotated[
        str | None,
        typer.Option("--model", envvar="SALM_MODEL", help="Model or checkpoint folder [default: the index's]."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", help="Find windows like this recording, instead of a sentence.")
    ] = None,
    direction: Annotated[
        str | None, typer.Option("--direction", help="Look for the same sound from here: southwest, behind, ...")
    ] = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Only what sounds counts, not from where.")] = False,
    only_direction: Annotated[bool, typer.Option("--only-direction", help="Only from where counts.")] = False,
    azimuth: Annotated[
        str | None, typer.Option("--azimuth", help="Found azimuth: a direction word, or LO:HI, counter-clockwise.")
    ] = None,
    elevation: Annotated[str | None, typer.Option("--elevation", help="Found elevation, LO:HI in degrees.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Windows that reach into LO:HI, in seconds of their recording.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", help="Shell pattern of the recordings, such as '*/yard/*'.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="NAME=VALUE", help="Metadata; a range is [LO,HI]. May be repeated."),
    ] = None,
    per_recording: Annotated[bool, typer.Option("--per-recording", help="Of each recording its best window.")] = False,
    convention: console.Convention = "ambix",
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Find recordings by a sentence or an example. Every hit is a window with its time and direction."""
    if anywhere and only_direction:
        raise typer.BadParameter("--anywhere and --only-direction leave nothing; give one of them")
    place = _place(index, store, quiet)
    from salm.cli.search import hit_to_json, search_index, window_filter
    from salm.queries import Query

    part: Any = "what" if anywhere else "where" if only_direction else "all"
    looked_for = Query(query, like, direction, part, convention)  # type: ignore[arg-type]
    conditions = window_filter(azimuth=azimuth, elevation=elevation, time=time, path=path, metadata=where or ())
    hits = search_index(place, looked_for, k, model, where=conditions, per_recording=per_recording)
    if as_json:
        console.print_json([hit_to_json(hit) for hit in hits])
    elif hits:
        print_hits(hits)
    else:
        option = "--store" if isinstance(place, Store) else "--out"
        fill = f"the index is empty; fill it with: salm index DIR {option} {place}"
        console.note(f"{place}: {'no window matches the filters' if conditions else fill}", quiet=quiet)


def _place(index: Path | None, store: str | None, quiet: bool) -> Path | Store:
    if store is not None:
        if index is not None:
            raise typer.BadParameter("expected --index or --store, not both")
        return parse_store(store)
    folder, origin = find_index(index)
    console.note(f"index: {folder} ({origin})", quiet=quiet or index is not None)
    return folder


def print_hits(hits: "list[Hit]") -> None:
    """The table of hits on stdout."""
    rows = [
        (
            str(hit.rank),
            f"{hit.score:.3f}",
            shown_path(hit.path),
            f"{hit.start_s:.1f}-{hit.end_s:.1f} s",
            degrees(hit.azimuth_deg),
            degrees(hit.elevation_deg),
        )
        for hit in hits
    ]
    console.print_table(("rank", "score", "path", "time", "azimuth", "elevation"), rows)


def degrees(angle_deg: float | None) -> str:
    """A signed angle in whole degrees; empty where it is not known."""
    if angle_deg is None:
        return ""
    return "+180°" if round(angle_deg) == -180 else f"{angle_deg:+.0f}°"


def compass(azimuth_deg: float) -> str:
    """The compass word of an azimuth."""
    from salm.geometry import sector_of

    return sector_of(math.radians(azimuth_deg)).compass


def shown_path(path: str) -> str:
    """A path relative to the current folder if it lies there, else as it is."""
    here = os.getcwd().rstrip(os.sep) + os.sep
    return path.removeprefix(here)


def main() -> None:
    """The console script `salm-retrieve`."""
    app = console.new_app()
    app.command(epilog=console.example(f"salm-retrieve {EXAMPLE}"))(retrieve)
    console.run(app, "salm-retrieve")
