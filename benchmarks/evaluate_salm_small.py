"""The README's scores of a model: direction, localisation, retrieval, labels and editing on the frozen test scenes.

python benchmarks/evaluate_salm_small.py --data ../shared/data --model salm-small > scores.json
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from frozen_scenes import RECIPES, build

import salm
from salm.evaluate.suite import document, evaluate
from salm.progress import progress_on_stderr


def main() -> None:
    """Print one document of all evaluations per recipe, as JSON."""
    parser = argparse.ArgumentParser(description="Evaluate a model on the frozen test scenes.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sounds/test")
    parser.add_argument("--model", default="salm-small", help="bundled model, checkpoint folder or repo id")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"), help="folder for the scenes")
    parser.add_argument("--recipe", choices=RECIPES, action="append", help="of the scenes [default: centre-v1]")
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
        documents[recipe] = document(gallery, results, command)
    print(json.dumps(documents, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
