"""`salm prepare`: public data sets in their own layouts -> dry-sound manifests, or a bank of measured responses."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salm.cli import console
from salm.progress import Progress, progress_on_stderr

if TYPE_CHECKING:
    from salm.prepare.report import Report
    from salm.prepare.sounds import Collection

app = console.new_app(no_args_is_help=True)

Manifest = Annotated[Path, typer.Option("--out", help="Dry-sound manifest (CSV) to write.")]
ReportFile = Annotated[
    Path | None, typer.Option("--report", help="Also write the report, with every missing and unusable file, as JSON.")
]


@app.callback()
def prepare() -> None:
    """Check the files of a data set and describe them for SALM. What is left out is counted and listed on stderr."""


@app.command(
    epilog=console.example(
        "salm prepare clotho clotho/clotho_captions_development.csv clotho/development --out dev.csv"
    )
)
def clotho(
    captions: Annotated[Path, typer.Argument(metavar="CAPTIONS_CSV", help="file_name, caption_1 to caption_5.")],
    audio: Annotated[Path, typer.Argument(metavar="AUDIO_DIR", help="The wav files of that split.")],
    out: Manifest,
    metadata: Annotated[
        Path | None,
        typer.Option("--metadata", help="Table with the Freesound ids [default: clotho_metadata_... beside CAPTIONS]."),
    ] = None,
    report: ReportFile = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """One split of Clotho -> a dry-sound manifest."""
    from salm.prepare.clotho import prepare_clotho

    def run(progress: Progress | None) -> "Collection":
        return prepare_clotho(captions, audio, metadata_csv=metadata, progress=progress)

    _write_sounds(run, out, report, as_json, quiet)


@app.command(epilog=console.example("salm prepare audiocaps audiocaps/train.csv audiocaps/audio --out train.csv"))
def audiocaps(
    captions: Annotated[
        Path, typer.Argument(metavar="CAPTIONS_CSV", help="audiocap_id, youtube_id, start_time, caption.")
    ],
    audio: Annotated[
        Path,
        typer.Argument(
            metavar="AUDIO_DIR", help="Your audio files: ID_START, YID, ID or AUDIOCAP_ID, in it or in folders in it."
        ),
    ],
    out: Manifest,
    report: ReportFile = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """One split of AudioCaps with your audio files -> a dry-sound manifest."""
    from salm.prepare.audiocaps import prepare_audiocaps

    def run(progress: Progress | None) -> "Collection":
        return prepare_audiocaps(captions, audio, progress=progress)

    _write_sounds(run, out, report, as_json, quiet)


@app.command(epilog=console.example("salm prepare esc50 ESC-50-master --fold 5 --out esc50_fold5.csv"))
def esc50(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="ESC-50-master, with meta and audio in it.")],
    out: Manifest,
    fold: Annotated[
        list[int] | None, typer.Option("--fold", min=1, max=5, help="Fold to take; may be given again [default: all].")
    ] = None,
    esc10: Annotated[bool, typer.Option("--esc10", help="Only the ten categories of ESC-10.")] = False,
    report: ReportFile = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """ESC-50 -> a dry-sound manifest."""
    from salm.prepare.esc50 import FOLDS, prepare_esc50

    def run(progress: Progress | None) -> "Collection":
        return prepare_esc50(folder, folds=fold or FOLDS, only_esc10=esc10, progress=progress)

    _write_sounds(run, out, report, as_json, quiet)


@app.command("folder", epilog=console.example("salm prepare folder sounds --out sounds/manifest.csv"))
def any_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Any folder of wav, flac, ogg or mp3 files.")],
    out: Manifest,
    label_from: Annotated[
        str, typer.Option("--label-from", help="folder: the name of a file's folder is its label; file: its own name.")
    ] = "folder",
    group: Annotated[
        str | None,
        typer.Option("--group", help="Regular expression; files whose paths match the same text are of one recording."),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Source of all files [default: DIR's name].")] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of all files.")] = "unknown",
    report: ReportFile = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Any folder of sounds -> a dry-sound manifest.

    Without --group every file is a recording of its own; takes of one recording then may fall into two splits.
    """
    from salm.prepare.folder import prepare_folder

    def run(progress: Progress | None) -> "Collection":
        return prepare_folder(
            folder, label_from=label_from, group_pattern=group, source=source, licence=licence, progress=progress
        )

    _write_sounds(run, out, report, as_json, quiet)


@app.command("tau-srir", epilog=console.example("salm prepare tau-srir TAU-SRIR_DB --out tau_srir.npz --every 5"))
def tau_srir(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="TAU-SRIR_DB, with rirdata.mat and measinfo.mat.")],
    out: Annotated[Path, typer.Option("--out", help="Bank of room responses (npz) to write.")],
    room: Annotated[
        list[str] | None, typer.Option("--room", help="Room to take, such as gym; may be given again [default: all].")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Take every n-th position (about 1 degree apart).")] = 1,
    report: ReportFile = None,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """The measured responses of the TAU-SRIR DB -> a bank for salm simulate --srirs."""
    console.require_extra("tau", "reading the TAU-SRIR DB", "h5py", "scipy")
    from salm.prepare.report import new_file
    from salm.prepare.tau_srir import prepare_tau_srir

    with progress_on_stderr("reading", quiet=quiet) as progress:
        bank, told = prepare_tau_srir(folder, rooms=room or (), every=every, progress=progress)
    if report is not None:
        told.save(report)
    bank.save(new_file(out))
    _tell(told, out, f"responses of {len(bank.rooms)} rooms", as_json, quiet)


def _write_sounds(
    run: Callable[[Progress | None], "Collection"], out: Path, report: Path | None, as_json: bool, quiet: bool
) -> None:
    with progress_on_stderr("checking", quiet=quiet) as progress:
        collection = run(progress)
    if report is not None:
        collection.report.save(report)
    collection.write(out)
    _tell(collection.report, out, "sounds", as_json, quiet)


def _tell(report: "Report", out: Path, kind: str, as_json: bool, quiet: bool) -> None:
    """The lists on stderr, the counts on stdout."""
    for line in report.lines():
        console.note(line, quiet=quiet)
    if as_json:
        console.print_json({"out": str(out)} | report.to_json())
    else:
        typer.echo(f"{out}: {report.summary}, {kind}")
