"""`salm eval`: a model measured on a scene manifest."""

import inspect
import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from salm.cli import console
from salm.progress import progress_on_stderr

app = console.new_app(
    no_args_is_help=True, help="Measure a model on a scene manifest (from salm simulate): tables, JSON and figures."
)

Scenes = Annotated[Path, typer.Argument(metavar="SCENES", help="Scene manifest, or a folder with a scenes.jsonl.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON; - prints them instead.")
]
FigureFolder = Annotated[
    Path | None, typer.Option("--figures", metavar="DIR", help="Draw the results as PNG files (needs salm[plot]).")
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


def evaluate_and_show(
    evaluations: tuple[str, ...],
    own_options: dict[str, Any],
    scenes: Scenes,
    model: console.ModelName = "salm-small",
    json_file: JsonFile = None,
    figures: FigureFolder = None,
    precision: console.Precision = console.PrecisionName.FLOAT32,
    no_cache: NoCache = False,
    quiet: console.Quiet = False,
) -> None:
    """Run evaluations and print, write and draw their results. From `scenes` on: the options of every command."""
    import salm
    from salm.evaluate.figures import make_figure_folder, write_figures
    from salm.evaluate.report import json_text, write_document
    from salm.evaluate.suite import document, evaluate

    if figures is not None:
        make_figure_folder(figures)
    cache = not no_cache and precision == console.PrecisionName.FLOAT32  # what is kept does not say its precision
    loaded = salm.load(model, precision=precision.value)
    with progress_on_stderr("evaluating", quiet=quiet) as progress:
        gallery, results = evaluate(scenes, loaded, evaluations, cache=cache, progress=progress, **own_options)
    content = document(gallery, results, shlex.join(["salm", *sys.argv[1:]]))
    if json_file == Path("-"):
        typer.echo(json_text(content))
    else:
        typer.echo(f"{gallery.model_id} on {gallery.manifest} (sha256 {gallery.manifest_sha256[:12]})")
        for result in results.values():
            for table in result.tables():
                typer.echo(f"\n{table.title}")
                console.print_table(table.header, table.rows)
        if json_file is not None:
            write_document(json_file, content)
    if figures is not None:
        for path in write_figures(figures, results, gallery.model_id):
            console.note(f"drew {path}", quiet=quiet)


def command(name: str, *evaluations: str) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., dict[str, Any]]]:
    """Make a command of a function that takes the options of its own and returns them as `suite.evaluate` takes them.

    The options of every command are those of `evaluate_and_show`; Typer reads both from the signature made here.
    """

    def register(own: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        own_parameters = inspect.signature(own).parameters
        scenes, model, *others = list(inspect.signature(evaluate_and_show).parameters.values())[2:]

        def run(**values: Any) -> None:
            own_options = own(**{option: values.pop(option) for option in own_parameters})
            evaluate_and_show(evaluations, own_options, **values)

        run.__signature__ = inspect.Signature([scenes, model, *own_parameters.values(), *others])  # type: ignore[attr-defined]
        example = f"salm eval {name} scenes --json results.json --figures figures"
        app.command(name, help=own.__doc__, epilog=console.example(example))(run)
        return own

    return register


@command("retrieval", "retrieval")
def retrieval(
    labels: Labels = None,
    min_scenes: MinScenes = 12,
    phrasing: PhrasingOption = Phrasing.BOTH,
    embedding: EmbeddingOption = Embedding.JOINT,
) -> dict[str, Any]:
    """Recall and precision: "<label> from the <direction>" queries, and the scenes' own captions."""
    phrasings = ("plain", "varied") if phrasing is Phrasing.BOTH else (phrasing.value,)
    return {"labels": labels, "min_scenes": min_scenes, "phrasings": phrasings, "embedding": embedding.value}


@command("direction", "direction")
def direction() -> dict[str, Any]:
    """Zero-shot direction and localisation error, beside the plain intensity-vector estimate."""
    return {}


@command("classify", "classify")
def classify(labels: Labels = None, min_scenes: MinScenes = 12) -> dict[str, Any]:
    """Zero-shot label accuracy of the semantic and the joint embedding."""
    return {"labels": labels, "min_scenes": min_scenes}


@command("editing", "editing")
def editing() -> dict[str, Any]:
    """Retrieval of the caption that fits after a sound's direction was edited in the embedding."""
    return {}


@command("all", "retrieval", "direction", "classify", "editing")
def all_evaluations(
    labels: Labels = None,
    min_scenes: MinScenes = 12,
    phrasing: PhrasingOption = Phrasing.BOTH,
    embedding: EmbeddingOption = Embedding.JOINT,
) -> dict[str, Any]:
    """All four, on one embedding of the scenes."""
    return retrieval(labels, min_scenes, phrasing, embedding)
