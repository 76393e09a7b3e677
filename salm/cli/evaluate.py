"""`salm eval`: a model measured on a scene manifest."""

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from salm.cli import console
from salm.progress import progress_on_stderr

EXAMPLE = "Example: salm eval {} scenes --model salm-small --json results.json"
app = console.new_app(
    no_args_is_help=True, help="Measure a model on a scene manifest (from salm simulate): tables, and JSON."
)

Scenes = Annotated[Path, typer.Argument(metavar="SCENES", help="Scene manifest, or a folder with a scenes.jsonl.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON; - prints them instead.")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", metavar="FILE", help="Labels to ask for, one a line [default: the frequent].")
]
MinScenes = Annotated[
    int, typer.Option("--min-scenes", min=1, help="Without --labels: labels with at least so many scenes.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep nothing in .salm-eval beside the manifest.")]


class Phrasing(StrEnum):
    """Wordings of the label-and-sector queries."""

    PLAIN = "plain"
    VARIED = "varied"
    BOTH = "both"


class Embedding(StrEnum):
    """Embeddings of the scenes."""

    JOINT = "joint"
    SEMANTIC = "semantic"
    SPATIAL = "spatial"


PhrasingOption = Annotated[Phrasing, typer.Option("--phrasing", help="Wording of the queries.")]
EmbeddingOption = Annotated[Embedding, typer.Option("--embedding", help="Of the scenes, for retrieval.")]


@app.command(epilog=EXAMPLE.format("retrieval"))
def retrieval(
    scenes: Scenes,
    model: console.ModelName = "salm-small",
    labels: Labels = None,
    min_scenes: MinScenes = 12,
    phrasing: PhrasingOption = Phrasing.BOTH,
    embedding: EmbeddingOption = Embedding.JOINT,
    json_file: JsonFile = None,
    no_cache: NoCache = False,
    quiet: console.Quiet = False,
) -> None:
    """Recall and precision: "<label> from the <direction>" queries, and the scenes' own captions."""
    options = _retrieval_options(labels, min_scenes, phrasing, embedding)
    _evaluate(scenes, model, ["retrieval"], options, json_file, no_cache, quiet)


@app.command(epilog=EXAMPLE.format("direction"))
def direction(
    scenes: Scenes,
    model: console.ModelName = "salm-small",
    json_file: JsonFile = None,
    no_cache: NoCache = False,
    quiet: console.Quiet = False,
) -> None:
    """Zero-shot direction and localisation error, beside the plain intensity-vector estimate."""
    _evaluate(scenes, model, ["direction"], {}, json_file, no_cache, quiet)


@app.command(epilog=EXAMPLE.format("classify"))
def classify(
    scenes: Scenes,
    model: console.ModelName = "salm-small",
    labels: Labels = None,
    min_scenes: MinScenes = 12,
    json_file: JsonFile = None,
    no_cache: NoCache = False,
    quiet: console.Quiet = False,
) -> None:
    """Zero-shot label accuracy of the semantic and the joint embedding."""
    _evaluate(scenes, model, ["classify"], {"labels": labels, "min_scenes": min_scenes}, json_file, no_cache, quiet)


@app.command(epilog=EXAMPLE.format("editing"))
def editing(
    scenes: Scenes,
    model: console.ModelName = "salm-small",
    json_file: JsonFile = None,
    no_cache: NoCache = False,
    quiet: console.Quiet = False,
) -> None:
    """Retrieval of the caption that fits after a sound's direction was edited in the embedding."""
    _evaluate(scenes, model, ["editing"], {}, json_file, no_cache, quiet)


@app.command("all", epilog=EXAMPLE.format("all"))
def all_evaluations(
    scenes: Scenes,
    model: console.ModelName = "salm-small",
    labels: Labels = None,
    min_scenes: MinScenes = 12,
    phrasing: PhrasingOption = Phrasing.BOTH,
    embedding: EmbeddingOption = Embedding.JOINT,
    json_file: JsonFile = None,
    no_cache: NoCache = False,
    quiet: console.Quiet = False,
) -> None:
    """All four, on one embedding of the scenes."""
    from salm.evaluate.suite import EVALUATIONS

    options = _retrieval_options(labels, min_scenes, phrasing, embedding)
    _evaluate(scenes, model, EVALUATIONS, options, json_file, no_cache, quiet)


def _retrieval_options(
    labels: Path | None, min_scenes: int, phrasing: Phrasing, embedding: Embedding
) -> dict[str, Any]:
    phrasings = ("plain", "varied") if phrasing is Phrasing.BOTH else (phrasing.value,)
    return {"labels": labels, "min_scenes": min_scenes, "phrasings": phrasings, "embedding": embedding.value}


def _evaluate(
    scenes: Path,
    model: str,
    evaluations: Sequence[str],
    options: dict[str, Any],
    json_file: Path | None,
    no_cache: bool,
    quiet: bool,
) -> None:
    import salm
    from salm.evaluate.report import write_document
    from salm.evaluate.suite import document, evaluate

    with progress_on_stderr("evaluating", quiet=quiet) as progress:
        gallery, results = evaluate(
            scenes, salm.load(model), evaluations, cache=not no_cache, progress=progress, **options
        )
    content = document(gallery, results, shlex.join(["salm", *sys.argv[1:]]))
    if json_file == Path("-"):
        console.print_json(content)
        return
    typer.echo(f"{gallery.model_id} on {gallery.manifest} (sha256 {gallery.manifest_sha256[:12]})")
    for result in results.values():
        for table in result.tables():
            typer.echo(f"\n{table.title}")
            console.print_table(table.header, table.rows)
    if json_file is not None:
        write_document(json_file, content)
