"""`salm index`: a folder of recordings -> an index that is up to date with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salm.cli import console
from salm.cli.archive import Kind, Recall
from salm.cli.locate import parse_store

if TYPE_CHECKING:
    from salm.cli.indexing import IndexReport


def index(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of FOA recordings (wav, flac, ogg, mp3), or one file.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Index folder; made, or brought up to date.", show_default=False)
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="STORE", help="Instead of a folder: milvus:URI[#COLLECTION]."),
    ] = None,
    model: console.ModelName = "salm-small",
    convention: console.Convention = "ambix",
    prune: Annotated[bool, typer.Option("--prune", help="Remove recordings that are gone from DIR.")] = False,
    window: Annotated[float, typer.Option("--window", help="Length of the windows in seconds.")] = 10.0,
    hop: Annotated[float, typer.Option("--hop", help="Seconds from one window to the next.")] = 5.0,
    precision: console.Precision = console.PrecisionName.FLOAT32,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Windows that are encoded at once.")] = 8,
    workers: Annotated[
        str | None, typer.Option("--workers", help="Encode on a Ray cluster: ray, or ray:N for N workers.")
    ] = None,
    kind: Kind = None,
    recall: Recall = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Index a folder of recordings.

    An existing index is brought up to date: only new and changed files are encoded. Interrupted, it goes on where it
    stopped.
    """
    if (out is None) == (store is None):
        raise typer.BadParameter("expected either --out or --store: where the index is")
    place = parse_store(store) if store is not None else out
    assert place is not None
    from salm.cli.index_progress import index_progress
    from salm.cli.indexing import update_index

    again = f"what is done is kept: run the same command again to go on with {folder}"
    with console.resumable(again), index_progress(quiet=quiet) as on_done:
        report = update_index(
            folder,
            place,
            model=model,
            convention=convention,
            window_s=window,
            hop_s=hop,
            batch_size=batch_size,
            precision=precision.value,
            prune=prune,
            kind=kind,
            recall=recall,
            workers=workers,
            on_done=on_done,
        )
    if as_json:
        console.print_json(report.to_json())
    else:
        _print_report(report, quiet)
    if report.failed:
        for path, message in report.failed.items():
            console.print_error(message if path in message else f"{path}: {message}")
        raise typer.Exit(console.EXIT_FAILURE)


def _print_report(report: "IndexReport", quiet: bool) -> None:
    counts = {
        "added": len(report.added),
        "changed": len(report.changed),
        "unchanged": len(report.unchanged),
        "removed": len(report.removed),
        "failed": len(report.failed),
    }
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to do"
    typer.echo(f"{report.index}: {report.num_recordings} recordings, {report.num_windows} windows ({summary})")
    console.note(f"search: {report.search}", quiet=quiet)
    for path in report.vanished:
        console.note(f"gone: {path}", quiet=quiet)
    if report.vanished:
        console.note("gone recordings are still in the index; remove them with --prune", quiet=quiet)
