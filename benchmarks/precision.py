"""What a faster precision costs: cosine to float32's vectors, and retrieval with both, on the frozen test scenes.

    python benchmarks/precision.py .cache/benchmarks/centre-v1 > precision.json      # about 5 minutes on 2 idle cores
    python benchmarks/precision.py .cache/benchmarks/centre-v1 --precision int8 > precision_int8.json

Bars: no cosine below 0.999, no rank-1 score changed by more than 0.5 % of the queries. `first hit changed` is stricter:
the share of queries whose first hit is another scene, be it as right as before or not. JSON goes to stdout.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import salm
from salm.evaluate.retrieval import RetrievalResult, evaluate_retrieval
from salm.evaluate.scenes import EMBEDDINGS, Gallery, frequent_labels, load_gallery, read_labels, text_embeddings
from salm.geometry import angle_between
from salm.progress import progress_on_stderr

BAR_COSINE, BAR_RANK_1 = 0.999, 0.005
MIN_SCENES = 12


def lowest_cosines(exact: Gallery, rounded: Gallery) -> dict[str, float]:
    """Of each embedding over all scenes."""
    return {name: float(np.sum(exact.embedding(name) * rounded.embedding(name), axis=1).min()) for name in EMBEDDINGS}


def rank_1_scores(result: RetrievalResult) -> dict[str, float]:
    """Every score of the first hit: label and sector by phrasing, and captions in both directions."""
    queries = {f"precision@1, {name} queries": scores.precision[1] for name, scores in result.queries.items()}
    return queries | {f"R@1, captions, {name}": scores.recall[1] for name, scores in result.captions.items()}


def compare(exact: Gallery, rounded: Gallery, model: Any, labels: list[str], precision: str) -> dict[str, Any]:
    """Cosines and scores of two galleries of the same scenes; `precision`: the second one's."""
    first, second = (rank_1_scores(evaluate_retrieval(gallery, model, labels)) for gallery in (exact, rounded))
    captions = text_embeddings(model, [text for scene in exact.scenes for text in scene.spatial_captions])
    hits = [(captions @ gallery.embedding("joint").T).argmax(axis=1) for gallery in (exact, rounded)]
    cosines = lowest_cosines(exact, rounded)
    changes = {name: round(second[name] - first[name], 5) for name in first}
    return {
        "lowest_cosine": {name: round(value, 6) for name, value in cosines.items()},
        "largest_change_of_direction_deg": round(math.degrees(angle_between(exact.doa, rounded.doa).max()), 2),
        "rank_1": {name: {"float32": round(first[name], 5), precision: round(second[name], 5)} for name in first},
        "change": changes,
        "first_hit_changed": round(float(np.mean(hits[0] != hits[1])), 5),
        "bars": {"cosine": BAR_COSINE, "rank_1": BAR_RANK_1},
        "met": min(cosines.values()) >= BAR_COSINE and max(map(abs, changes.values())) <= BAR_RANK_1,
    }


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", type=Path, help="folder of frozen_scenes.py, or a scene manifest")
    parser.add_argument("--model", default="salm-small", help="what salm.load takes")
    parser.add_argument("--labels", type=Path, help="labels to ask for, one a line; by default the frequent ones")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "int8", "int16"))
    arguments = parser.parse_args()
    galleries = {}
    for precision in ("float32", arguments.precision):
        model = salm.load(arguments.model, precision=precision)
        with progress_on_stderr(precision) as progress:  # nothing kept: the name of what is kept has no precision
            galleries[precision] = load_gallery(arguments.scenes, model, cache=False, progress=progress)
    exact = galleries["float32"]
    names = arguments.labels
    labels = frequent_labels(exact.scenes, MIN_SCENES) if names is None else read_labels(names, exact.scenes)
    what = {"model": exact.model_id, "scenes": len(exact.scenes), "manifest_sha256": exact.manifest_sha256}
    rounded = galleries[arguments.precision]
    print(json.dumps(what | compare(exact, rounded, model, labels, arguments.precision), indent=2))


if __name__ == "__main__":
    main()
