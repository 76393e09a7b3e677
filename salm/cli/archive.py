"""`salm verify`, `compact`, `merge`, `stats`, `export`: what an index needs in the course of its life."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salm.cli import console

if TYPE_CHECKING:
    from salm_index import Stats

IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="Index folder.", show_default=False)]
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind", help="auto, flat (exact) or ivf (reads the nearest lists) [default: the index's, else auto]."
    ),
]
Recall = Annotated[
    float | None,
    typer.Option("--recall", help="Share of true neighbours that ivf must find [default: the index's, else 0.99]."),
]


def verify(index: IndexFolder, as_json: console.AsJson = False, quiet: console.Quiet = False) -> None:
    """Check every byte of an index: checksums, counts, and that vectors and rows agree."""
    from salm_index import Index

    with Index.open(index) as opened:
        console.note(f"checking {_megabytes(opened.stats().num_bytes)}", quiet=quiet)
        opened.verify()
        stats = opened.stats()
    if as_json:
        console.print_json({"index": str(index), "ok": True, "generation": stats.generation})
    else:
        typer.echo(f"{index}: ok ({_contents(stats)}, generation {stats.generation})")


def compact(
    index: IndexFolder,
    kind: Kind = None,
    recall: Recall = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Write an index anew in as few files as can be; --kind and --recall change how it is searched."""
    from salm_index import Index

    with Index.open(index) as opened:
        opened.refresh()
        before = opened.stats()
        console.note(f"compacting {_megabytes(before.num_bytes)} in {len(before.segments)} segments", quiet=quiet)
        changed = opened.compact(kind=kind, recall=recall)
        stats = opened.stats()
    if as_json:
        console.print_json({"changed": changed, "bytes_before": before.num_bytes, **asdict(stats)})
    elif changed:
        sizes = f"{_megabytes(before.num_bytes)} -> {_megabytes(stats.num_bytes)}"
        typer.echo(f"{index}: {_contents(stats)}, {len(before.segments)} -> {len(stats.segments)} segments, {sizes}")
        typer.echo(f"search: {stats.search}")
    else:
        typer.echo(f"{index}: nothing to compact ({_contents(stats)})")


def merge(
    first: Annotated[Path, typer.Argument(metavar="A", help="Index folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Index folder, of the same model.")],
    out: Annotated[Path, typer.Option("--out", help="New index folder; A and B stay as they are.")],
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Join two indexes in a third one; recordings that both have with one content are taken once."""
    from salm_index import Index

    console.note(f"merging {first} and {second}", quiet=quiet)
    with Index.merge(first, second, out) as merged:
        stats = merged.stats()
    if as_json:
        console.print_json(asdict(stats))
    else:
        typer.echo(f"{out}: {_contents(stats)}")


def stats(index: IndexFolder, as_json: console.AsJson = False) -> None:
    """Show what an index is made of, and how it is searched."""
    from salm_index import Index

    with Index.open(index) as opened:
        stats = opened.stats()
    if as_json:
        console.print_json(asdict(stats) | {"search": stats.search})
        return
    lines = {
        "index": stats.path,
        "model": stats.model,
        "contents": f"{_contents(stats)} of {stats.dimension} numbers",
        "removed": f"{stats.num_removed} windows, which salm compact would free",
        "size": f"{_megabytes(stats.num_bytes)} in {len(stats.segments)} segments",
        "generation": str(stats.generation),
        "search": stats.search,
    }
    for name, value in lines.items():
        typer.echo(f"{name:<12}{value}")


def export(
    index: IndexFolder,
    out: Annotated[Path, typer.Option("--out", help="New folder for vectors.npy and rows.parquet.")],
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Write an index as vectors.npy (float32) and rows.parquet, row for row; needs pyarrow."""
    from salm_index import Index

    with Index.open(index) as opened:
        console.note(f"exporting {_contents(opened.stats())}", quiet=quiet)
        opened.export(out)
        num_windows = len(opened)
    if as_json:
        console.print_json({"folder": str(out), "windows": num_windows, "files": ["vectors.npy", "rows.parquet"]})
    else:
        typer.echo(f"{out}: vectors.npy and rows.parquet with {num_windows} windows")


def _contents(stats: "Stats") -> str:
    return f"{stats.num_recordings} recordings, {stats.num_windows} windows"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
