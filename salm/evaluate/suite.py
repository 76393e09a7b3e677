"""The evaluations of `salm eval`, by name: scenes embedded once, every number from them, one document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import salm
from salm.errors import ConfigError
from salm.evaluate.classify import evaluate_labels
from salm.evaluate.directions import evaluate_directions
from salm.evaluate.editing import evaluate_editing
from salm.evaluate.report import Table, to_json
from salm.evaluate.retrieval import PHRASINGS, evaluate_retrieval
from salm.evaluate.scenes import EMBEDDINGS, Gallery, Model, frequent_labels, load_gallery, read_labels
from salm.progress import Progress

EVALUATIONS = ("retrieval", "direction", "classify", "editing")
MIN_SCENES = 12
"""Without a list of labels, those with at least so many scenes are asked for (four sounds at three positions)."""


class Result(Protocol):
    """What every evaluation returns: a frozen dataclass of numbers that can show itself."""

    def tables(self) -> list[Table]:
        """The numbers as they are printed."""


def evaluate(
    scenes: str | Path,
    model: Model,
    evaluations: Sequence[str] = EVALUATIONS,
    *,
    labels: str | Path | None = None,
    min_scenes: int = MIN_SCENES,
    embedding: str = "joint",
    phrasings: Sequence[str] = tuple(PHRASINGS),
    cache: bool = True,
    progress: Progress | None = None,
) -> tuple[Gallery, dict[str, Result]]:
    """Run some or all evaluations on one embedding of the scenes.

    Args:
        scenes: a scene manifest, or a folder with a `scenes.jsonl`.
        model: from `salm.load`.
        evaluations: out of `EVALUATIONS`.
        labels: text file of the labels for `retrieval` and `classify`; without it all with `min_scenes` scenes.
        embedding: of the scenes, for `retrieval`: "joint", "semantic" or "spatial".
        phrasings: of the queries of `retrieval`, out of "plain" and "varied".
        cache: keep what is computed in `.salm-eval` beside the manifest.
        progress: called with the number of finished scenes and of all, for each pass over the scenes.

    Returns:
        The embedded scenes, and the results by name.

    Raises:
        ConfigError: an unknown evaluation, embedding or phrasing.
        ManifestError: the scenes or the labels cannot be used; the message names file and line.
        AudioFormatError: a scene cannot be read.
    """
    for kind, given, known in (
        ("evaluation", evaluations, EVALUATIONS),
        ("embedding", (embedding,), EMBEDDINGS),
        ("phrasing", phrasings, tuple(PHRASINGS)),
    ):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise ConfigError(f"unknown {kind} {', '.join(unknown) or '(none)'}; expected {', '.join(known)}")
    gallery = load_gallery(scenes, model, cache=cache, progress=progress)
    results: dict[str, Result] = {}
    if not {"retrieval", "classify"}.isdisjoint(evaluations):
        named = frequent_labels(gallery.scenes, min_scenes) if labels is None else read_labels(labels, gallery.scenes)
    for name in evaluations:
        match name:
            case "retrieval":
                results[name] = evaluate_retrieval(gallery, model, named, embedding=embedding, phrasings=phrasings)
            case "direction":
                results[name] = evaluate_directions(gallery, model, cache=cache, progress=progress)
            case "classify":
                results[name] = evaluate_labels(gallery, model, named)
            case "editing":
                results[name] = evaluate_editing(gallery, model)
    return gallery, results


def document(gallery: Gallery, results: Mapping[str, Result], command: str) -> dict[str, Any]:
    """Results as JSON values, with what they are results of.

    Args:
        command: the line that repeats them.
    """
    return {
        "salm_version": salm.__version__,
        "model": gallery.model_id,
        "manifest": str(gallery.manifest),
        "manifest_sha256": gallery.manifest_sha256,
        "num_scenes": len(gallery.scenes),
        "command": command,
        "results": {name: to_json(result) for name, result in results.items()},
    }
