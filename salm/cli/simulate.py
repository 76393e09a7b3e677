"""`salm simulate`: dry sounds -> a folder of FOA scenes with a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from salm.cli import console
from salm.progress import progress_on_stderr


def simulate(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="CSV of dry sounds.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the scenes; an interrupted one is completed.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same files.")] = 0,
    positions: Annotated[int, typer.Option("--positions", min=1, help="Positions per sound, in one room.")] = 3,
    scenes: Annotated[
        int | None, typer.Option("--scenes", min=1, help="Scenes in all [default: sounds times positions].")
    ] = None,
    duration: Annotated[float, typer.Option("--duration", help="Length of a scene in seconds.")] = 10.0,
    rt60: Annotated[
        tuple[float, float] | None,
        typer.Option("--rt60", help="Shortest and longest reverberation time in seconds [default: 0.1 0.8]."),
    ] = None,
    snr: Annotated[
        tuple[float, float], typer.Option("--snr", help="Lowest and highest signal-to-noise ratio in dB.")
    ] = (15.0, 40.0),
    receiver: Annotated[
        str | None, typer.Option("--receiver", help="centre of the room, or anywhere [default: centre].")
    ] = None,
    srirs: Annotated[
        Path | None,
        typer.Option("--srirs", help="Bank of room responses instead of simulated rooms (salm prepare tau-srir)."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Name of the split in the manifest.")] = "test",
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Place dry sounds in simulated or measured rooms. Writes FOA flac files and scenes.jsonl; one seed, one result."""
    if srirs is not None and (rt60 is not None or receiver is not None):
        raise typer.BadParameter(
            "the rooms are those of the bank; leave out --rt60 and --receiver", param_hint="--srirs"
        )
    console.require_extra("scenes", "simulating rooms", "scipy")
    from salm.manifest import read_dry_sounds
    from salm.scenes.dataset_writer import simulate_dataset
    from salm.scenes.srir_bank import SrirBank

    sounds = read_dry_sounds(manifest)
    bank = None if srirs is None else SrirBank.load(srirs)
    again = f"run the same command again to complete {out}"
    with console.resumable(again), progress_on_stderr("simulating", quiet=quiet) as progress:
        written = simulate_dataset(
            sounds,
            out,
            seed=seed,
            positions_per_sound=positions,
            num_scenes=scenes,
            duration_s=duration,
            rt60_range_s=rt60 or (0.1, 0.8),
            snr_db_range=snr,
            receiver=receiver or "centre",
            split=split,
            srirs=bank,
            progress=progress,
        )
    if as_json:
        console.print_json({"folder": str(out), "manifest": str(out / "scenes.jsonl"), "scenes": len(written)})
    else:
        typer.echo(f"{out}: {len(written)} scenes of {len(sounds)} sounds, described in {out / 'scenes.jsonl'}")
