"""`salm captions`: a scene manifest -> the same scenes with spatial captions rephrased by a language model."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from salm.cli import console
from salm.cli.locate import cache_folder
from salm.progress import progress_on_stderr


def captions(
    scenes: Annotated[Path, typer.Argument(metavar="SCENES", help="Scene manifest, or a folder with scenes.jsonl.")],
    out: Annotated[Path, typer.Option("--out", help="Manifest to write; it may be SCENES itself.")],
    model: Annotated[
        str, typer.Option("--model", help="Any causal language model: Hugging Face repository or folder.")
    ] = "meta-llama/Llama-3.2-3B-Instruct",
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest word always.")] = 0.2,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of answers already given [default: the user's cache folder].")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Captions that are asked at once.")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same captions.")] = 0,
    as_json: console.AsJson = False,
    quiet: console.Quiet = False,
) -> None:
    """Let a language model rephrase the spatial captions; a template replaces each answer that fails the checks.

    With --json, each caption is listed with its origin (model or template), the answer, and why it was refused.
    """
    from salm.errors import ConfigError, ManifestError
    from salm.manifest import read_scenes, write_scenes
    from salm.text.language_model import LanguageModel
    from salm.text.rewrite import AnswerCache, rewrite_scenes

    manifest = scenes / "scenes.jsonl" if scenes.is_dir() else scenes
    rows = read_scenes(manifest)
    if not rows:
        raise ManifestError(f"{manifest}: no scenes; expected one JSON object a line, as salm simulate writes them")
    if out.is_dir():
        raise ConfigError(f"{out}: expected the name of a manifest to write, got a folder; try {out / 'scenes.jsonl'}")
    rephraser = LanguageModel(model, temperature=temperature, seed=seed)
    again = "run the same command again; the answers so far are kept"
    with (
        console.resumable(again),
        AnswerCache(cache or cache_folder() / "captions") as answers,
        progress_on_stderr("rewriting", quiet=quiet) as progress,
    ):
        rewritten, rewrites = rewrite_scenes(rows, rephraser, answers, batch_size=batch_size, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_scenes(out, rewritten)
    refused = Counter(rewrite.refused.split(":")[0] for rewrite in rewrites if rewrite.refused is not None)
    unchanged = sum(len(scene.sources) != 1 for scene in rows)
    cached = sum(rewrite.cached for rewrite in rewrites)
    if as_json:
        console.print_json(
            {"manifest": str(out), "model": model, "scenes": len(rows), "unchanged_scenes": unchanged}
            | {"captions": len(rewrites), "fallbacks": refused.total(), "refused": dict(refused), "cached": cached}
            | {"rewrites": [asdict(rewrite) for rewrite in rewrites]}
        )
        return
    reasons = f" ({', '.join(f'{check} {count}' for check, count in refused.most_common())})" if refused else ""
    typer.echo(
        f"{out}: {len(rewrites)} spatial captions, {len(rewrites) - refused.total()} by {model}, "
        f"{refused.total()} by template{reasons}; {cached} answers were known"
    )
    if unchanged:
        console.note(f"{unchanged} scenes of several sources are as they were", quiet=quiet)
