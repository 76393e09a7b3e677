"""The README's scores of a model: direction, localisation, retrieval, labels and editing on the frozen test scenes.

python benchmarks/evaluate_salm_small.py --data ../shared/data --model salm-small > scores.json

With --write README.md salm/weights/salm-small/README.md the scores' table replaces the one between the marks
`<!-- scores -->` and `<!-- end of scores -->` of these files.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frozen_scenes import RECIPES, build

import salm
from salm.evaluate.suite import document, evaluate
from salm.progress import progress_on_stderr

ESC10_LABELS = Path(__file__).parent / "esc10_labels.txt"
BARS = {
    "direction": "95 %; 99 %",
    "all": "85 %; 94 %",
    "localisation": "median 6°; median 2.5°, mean 4°",
    "queries": "0.45 / 0.40; 0.70 / 0.60",
    "kept": "85 % of the above",
    "label": "70 % from the joint",
    "esc10": "85 %",
    "edit": "0.90 of it",
}
"""What a first version, and then a good one, should reach; in the table's third column."""
TABLE = re.compile(r"(<!-- scores -->\n).*?(<!-- end of scores -->)", flags=re.DOTALL)


def main() -> None:
    """Print one document of all evaluations per recipe, as JSON."""
    parser = argparse.ArgumentParser(description="Evaluate a model on the frozen test scenes.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sounds/test")
    parser.add_argument("--model", default="salm-small", help="bundled model, checkpoint folder or repo id")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"), help="folder for the scenes")
    parser.add_argument("--recipe", choices=RECIPES, action="append", help="of the scenes [default: centre-v1]")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="files whose table of scores is replaced")
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/evaluate_salm_small.py", *sys.argv[1:]])
    model, documents = salm.load(arguments.model), {}
    for recipe in arguments.recipe or ["centre-v1"]:
        folder = arguments.cache / recipe
        with progress_on_stderr(f"simulating {recipe}") as progress:
            build(arguments.data / "sounds/test/manifest.csv", folder, recipe, progress)
        with progress_on_stderr(f"evaluating {recipe}") as progress:
            labels = arguments.data / "core_labels.txt"
            gallery, results = evaluate(folder, model, labels=labels, progress=progress)
            _, ten = evaluate(folder, model, ("classify",), labels=ESC10_LABELS)
            results["classify_esc10"] = ten["classify"]
        documents[recipe] = document(gallery, results, command)
        for file in arguments.write if recipe == "centre-v1" else []:
            text, count = TABLE.subn(rf"\g<1>{score_table(results, gallery.model_id)}\g<2>", file.read_text())
            if count != 1:
                raise SystemExit(f"{file}: expected one pair of marks around the table of scores, found {count}")
            file.write_text(text)
    print(json.dumps(documents, indent=2, ensure_ascii=False))


def score_table(results: Mapping[str, Any], model_id: str) -> str:
    """The README's table in Markdown."""
    direction, queries, labels = results["direction"], results["retrieval"].queries, results["classify"]
    joint, spatial, semantic = (direction.zero_shot[name] for name in ("joint", "spatial", "semantic"))
    model, plain = direction.localisation["model"], direction.localisation["unit intensity"]
    asked, varied, captions = queries["plain"], queries["varied"], results["retrieval"].captions
    ten = results["classify_esc10"]
    change, kept = results["editing"].ways["Change"], results["editing"].kept["Change"]

    def share(*values: float) -> str:
        return " / ".join(f"{100 * value:.1f}" for value in values) + " %"

    def errors(found: Any) -> str:
        return f"{found.median_deg:.1f}° / {found.mean_deg:.1f}° / {found.p90_deg:.1f}°"

    def scores(found: Any) -> str:
        return f"{found.precision[1]:.2f} / {found.mean_average_precision:.2f}"

    chance = f"{asked.chance_precision:.3f} / {asked.chance_average_precision:.3f}"
    by_label = labels.scores
    rows = [
        ("eight-way zero-shot direction, 5° or more from a border: joint / spatial",
         share(joint.accuracy_away_from_borders, spatial.accuracy_away_from_borders), BARS["direction"]),
        (f"the same over all azimuths: joint / spatial (semantic: {share(semantic.accuracy)}, chance 12.5 %)",
         share(joint.accuracy, spatial.accuracy), BARS["all"]),
        ("localisation error in three dimensions, median / mean / 90th percentile",
         errors(model.all), BARS["localisation"]),
        ("the same of the azimuth alone", errors(model.azimuth), ""),
        ("the same in three dimensions by unit intensity, without learning", errors(plain.all), ""),
        (f'"<label> from the <direction>", {len(results["retrieval"].labels)} labels, {asked.num_queries} queries: '
         f"precision@1 / mAP (chance {chance})", scores(asked), BARS["queries"]),
        (f"the same in eight other phrasings, {varied.num_queries:,} queries", scores(varied), BARS["kept"]),
        (f"zero-shot label among {len(labels.labels)}: joint / semantic; top-5 of joint",
         f"{share(by_label['joint'].accuracy, by_label['semantic'].accuracy)}; "
         f"{share(by_label['joint'].top5_accuracy)}", BARS["label"]),
        (f"the same among ESC-10's ten, {ten.count} scenes: joint / semantic",
         share(ten.scores["joint"].accuracy, ten.scores["semantic"].accuracy), BARS["esc10"]),
        *((f"captions ({captions[way].num_captions:,}), {name}: R@1 / 5 / 10",
           share(*(captions[way].recall[k] for k in (1, 5, 10))), "")
          for way, name in (("text_to_audio", "text to audio"), ("audio_to_text", "audio to text"))),
        ("change of direction (equation 3): right direction at 1; R@10 against the unedited",
         f"{share(change.direction_at_1)}; {kept[10]:.2f} of it", BARS["edit"]),
    ]  # fmt: skip
    header = [("what (frozen scenes `centre-v1`)", f"`{model_id}`", "bar of a first; of a good version"), ("---",) * 3]
    return "".join("| " + " | ".join(row) + " |\n" for row in (*header, *rows))


if __name__ == "__main__":
    main()
