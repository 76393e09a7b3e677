"""`salm doctor`: what a file is, and whether SALM can use it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salm.cli import console
from salm.errors import AudioFormatError

if TYPE_CHECKING:
    from salm.audio.inspect import RecordingReport


def doctor(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings.")],
    as_json: console.AsJson = False,
) -> None:
    """Examine recordings. Rate, channels, level, defects, and whether the channel order looks right."""
    from salm.audio.inspect import inspect_recording

    answers: list[dict[str, Any]] = []
    errors: list[str] = []
    for file in files:
        try:
            report = inspect_recording(file)
        except AudioFormatError as error:
            errors.append(str(error))
            answers.append({"path": str(file), "error": str(error)})
            continue
        answers.append(report.as_dict())
        if not as_json:
            _print_report(report)
    if as_json and len(errors) < len(files):
        console.print_json(answers)
    for message in errors:
        console.print_error(message)
    if errors:
        raise typer.Exit(console.EXIT_MISTAKE)


def _print_report(report: "RecordingReport") -> None:
    typer.echo(
        f"{report.path}: {report.format}, {report.sample_rate_hz} Hz, {report.num_channels} channels, "
        f"{report.duration_s:.2f} s; usable for {report.usable}"
    )
    header = ("channel", "peak dBFS", "RMS dBFS", "DC offset", "clipped samples")
    rows = [
        (c.name, _level(c.peak_dbfs), _level(c.rms_dbfs), f"{c.dc_offset:.4f}", str(c.clipped_samples))
        for c in report.channels
    ]
    console.print_table(header, rows)
    if report.convention is not None:
        typer.echo(f"looks like {report.convention.looks_like}: {'; '.join(report.convention.reasons)}")
    for warning in report.warnings:
        typer.echo(f"warning: {warning}")


def _level(level_dbfs: float | None) -> str:
    return "-inf" if level_dbfs is None else f"{level_dbfs:.1f}"
