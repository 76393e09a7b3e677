"""`salm direction`: where the sound of a recording comes from, by the direction prompts and by the DOA head."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from salm.cli import console
from salm.cli.retrieve import compass, degrees


def direction(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FOA recording.")],
    model: console.ModelName = "salm-small",
    convention: console.Convention = "ambix",
    windows: Annotated[bool, typer.Option("--windows", help="One answer for each window of 10 s.")] = False,
    as_json: console.AsJson = False,
) -> None:
    """Say where a sound comes from. Zero-shot over the eight compass words, and the DOA head, side by side."""
    answers = list(directions(file, model=model, convention=convention, by_window=windows))
    if as_json:
        console.print_json({"path": str(file), "windows": answers} if windows else {"path": str(file)} | answers[0])
    elif windows:
        _print_windows(answers)
    else:
        _print_answer(file, answers[0])


def directions(
    file: Path, *, model: str = "salm-small", convention: str = "ambix", by_window: bool = False
) -> Iterator[dict[str, Any]]:
    """The two answers for a recording (its windows' mean), or for each of its windows, as JSON values.

    Raises:
        AudioFormatError: the recording cannot be used.
        CheckpointError: the model cannot be loaded.
    """
    import salm
    from salm.audio.io import SAMPLE_RATE_HZ, audio_info, stream_windows

    audio_info(file)  # a wrong path is told before the model is loaded
    embedder = salm.load(model)
    if not by_window:
        yield _answer(embedder, file, convention=convention)
        return
    for window in stream_windows(file, convention=convention):
        times = {"start_s": window.start_s, "end_s": window.end_s}
        yield times | _answer(embedder, window.samples, sample_rate=SAMPLE_RATE_HZ)


def _answer(embedder: Any, audio: Any, **reading: Any) -> dict[str, Any]:
    zero_shot, found = embedder.classify_direction(audio, **reading), embedder.localize(audio, **reading)
    return {"zero_shot": asdict(zero_shot), "doa": {"label": compass(found.azimuth_deg)} | asdict(found)}


def _print_answer(file: Path, answer: dict[str, Any]) -> None:
    zero_shot, doa = answer["zero_shot"], answer["doa"]
    typer.echo(f"{file}\n")
    rows = [
        ("zero-shot", zero_shot["label"], degrees(zero_shot["azimuth_deg"]), ""),
        ("DOA head", doa["label"], degrees(doa["azimuth_deg"]), degrees(doa["elevation_deg"])),
    ]
    console.print_table(("by", "direction", "azimuth", "elevation"), rows)
    typer.echo("")
    ranked = sorted(zero_shot["probabilities"].items(), key=lambda item: -item[1])
    console.print_table(("zero-shot", "probability"), [(label, f"{100 * share:.1f}%") for label, share in ranked])


def _print_windows(answers: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{answer['start_s']:.1f}-{answer['end_s']:.1f} s",
            zero_shot["label"],
            f"{100 * zero_shot['probabilities'][zero_shot['label']]:.1f}%",
            doa["label"],
            degrees(doa["azimuth_deg"]),
            degrees(doa["elevation_deg"]),
        )
        for answer in answers
        for zero_shot, doa in [(answer["zero_shot"], answer["doa"])]
    ]
    console.print_table(("time", "zero-shot", "probability", "DOA head", "azimuth", "elevation"), rows)
