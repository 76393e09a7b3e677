"""The paper's comparison at one small budget: the whole model, the spatial branch alone, the semantic one, no L_CL.

python benchmarks/compare_variants.py --data ../shared/data --epochs 2     # benchmarks/results/variants.json
python benchmarks/compare_variants.py --data ../shared/data --compare ingredients --epochs 4 --seeds 1

As in the paper, all variants start from towers that were trained apart: a semantic branch on captions (there
LAION-CLAP) and a spatial branch on what and where (there PSELDNets), both made here, small. From there each variant is
trained for the same number of steps over the same scenes, with each seed in another order, and scored on the frozen
test scenes. The ingredients are what a semantic branch that starts from nothing learns meaning from, each left out
once. A run that is interrupted goes on where it stopped; what is scored already is not trained again.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from frozen_scenes import build
from output import write_json

import salm
from salm.config import AudioEncoderConfig
from salm.evaluate.suite import evaluate
from salm.models.builders import build_model
from salm.progress import progress_on_stderr
from salm.weights.checkpoint import load_checkpoint, save_checkpoint
from salm.weights.registry import find_checkpoint

CONFIGS = Path(__file__).parents[1] / "configs"
AUDIO = AudioEncoderConfig(width=32, depths=(1, 1, 1, 1), num_heads=(2, 4, 8, 16))
PROMPTS = {"prompts": 1.0, "doa": 4.0}
CAPTIONS = {"semantic": 0.5, "labels": 0.5}
"""L_CL, over a batch and over all labels."""
SPATIAL_CAPTIONS = {"joint": 0.5, "scenes": 0.5}
"""L_sCL, over a batch and over all labels in all directions."""
NOTHING = dict.fromkeys(("semantic", "labels", "joint", "scenes", "doa", "prompts", "teacher", "tags"), 0.0)
TEACHER = {"teacher": 1.0, "tags": 20.0}
Training = tuple[list[str], dict[str, float]]
"""Branches and losses."""
BEFORE: dict[str, Training] = {
    "captions": (["semantic"], {**CAPTIONS, **TEACHER}),
    "detection": (["spatial"], {**SPATIAL_CAPTIONS, **PROMPTS}),
}
"""The two trainings before all variants."""
BOTH = ["semantic", "spatial"]
VARIANTS: dict[str, Training] = {
    "SALM": (BOTH, {**CAPTIONS, **SPATIAL_CAPTIONS, **PROMPTS}),
    "SALM without L_CL": (BOTH, {**SPATIAL_CAPTIONS, **PROMPTS}),
    "SALM-s (spatial branch alone)": (["spatial"], {**SPATIAL_CAPTIONS, **PROMPTS}),
    "LAION-CLAP-like (semantic branch alone)": (["semantic"], SPATIAL_CAPTIONS),
    "SALM, plain InfoNCE": (BOTH, {**CAPTIONS, **SPATIAL_CAPTIONS, **PROMPTS}),
    "SALM, masked InfoNCE": (BOTH, {**CAPTIONS, **SPATIAL_CAPTIONS, **PROMPTS}),
}
TARGETS = {"SALM, plain InfoNCE": "instance", "SALM, masked InfoNCE": "masked"}
"""Contrastive targets of the variants that differ in nothing else; all others have several positives."""
INGREDIENTS: dict[str, Training] = {
    "captions, the teacher's embeddings and tags": (["semantic"], {**CAPTIONS, **TEACHER}),
    "without the teacher's embeddings": (["semantic"], {**CAPTIONS, **TEACHER, "teacher": 0.0}),
    "without the teacher's tags": (["semantic"], {**CAPTIONS, **TEACHER, "tags": 0.0}),
    "without the teacher": (["semantic"], CAPTIONS),
    "without the captions of a batch": (["semantic"], {**CAPTIONS, **TEACHER, "semantic": 0.0}),
    "without the captions of all labels": (["semantic"], {**CAPTIONS, **TEACHER, "labels": 0.0}),
    "all, and the convolutional network": (["semantic"], {**CAPTIONS, **TEACHER}),
}
TIMBRE = {"all, and the convolutional network": 24}
"""Width of `salm.models.timbre`, which the others do without."""
COLUMNS = {
    "variants": {"precision@1": "P@1", "map": "mAP", "recall@10": "R@10", "direction": "direction", "label": "label"},
    "ingredients": {"label": "label"},
}
FROM_NOTHING = {"contrastive_steps": [80, 250]}
"""Contrastive losses from the first step on would keep fresh towers from learning."""


def main() -> None:
    """Train what is missing, score it, and print the table; the scores are written after each training."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sounds and teachers")
    parser.add_argument("--runs", type=Path, default=Path("runs/variants"), help="folder for the trainings")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"), help="folder for the test scenes")
    parser.add_argument("--compare", choices=list(COLUMNS), default="variants")
    parser.add_argument("--out", type=Path, help="the scores [default: in benchmarks/results]")
    parser.add_argument("--epochs", type=int, default=4, help="of 100 steps, for each training that is scored")
    parser.add_argument("--epochs-before", type=int, default=12, help="for each of the two branches before that")
    parser.add_argument("--seeds", type=int, default=3, help="orders of the scenes")
    parser.add_argument("--config", type=Path, action="append", default=[], help="further settings for every training")
    arguments = parser.parse_args()
    arguments.out = arguments.out or Path("benchmarks/results") / f"{arguments.compare}.json"
    scores = json.loads(arguments.out.read_text())["scores"] if arguments.out.is_file() else {}
    if arguments.compare == "variants":
        trainings, start, common = VARIANTS, common_start(arguments), {}
    else:
        trainings, start, common = INGREDIENTS, fresh_start(arguments), FROM_NOTHING
    scenes = arguments.cache / "centre-v1"
    with progress_on_stderr("simulating centre-v1") as progress:
        build(arguments.data / "sounds/test/manifest.csv", scenes, "centre-v1", progress)
    for seed in range(1, arguments.seeds + 1):
        for number, (name, (branches, losses)) in enumerate(trainings.items()):
            if str(seed) in scores.get(name, {}):
                continue
            settings = {
                "branches": branches,
                "loss": NOTHING | losses,
                "targets": TARGETS.get(name, "multi_positive"),
                "timbre_channels": TIMBRE.get(name, 0),
            }
            run = arguments.runs / f"{arguments.compare}-{seed}-{number}"
            model = train(arguments, run, start, settings | common, arguments.epochs, seed)
            scores.setdefault(name, {})[str(seed)] = score(model, scenes, arguments.data / "core_labels.txt")
            write(arguments, scores)
    sys.stdout.write(table(scores, COLUMNS[arguments.compare]))


def fresh_start(arguments: argparse.Namespace) -> Path:
    """The folder of a model that has learned nothing but text; its text tower is the bundled model's."""
    folder: Path = arguments.runs / "fresh"
    if (folder / "config.json").is_file():
        return folder
    bundled = load_checkpoint(find_checkpoint("salm-small"))
    config = replace(bundled.config, name="salm-mini", audio=AUDIO, query_bank=0)
    torch.manual_seed(0)
    model = build_model(config)
    text = {name: value for name, value in bundled.model.state_dict().items() if name.startswith("text_")}
    model.load_state_dict({**model.state_dict(), **text})
    save_checkpoint(folder, model, config, bundled.tokenizer)
    return folder


def common_start(arguments: argparse.Namespace) -> Path:
    """The folder of a model with both branches, trained apart."""
    folder: Path = arguments.runs / "start"
    if (folder / "config.json").is_file():
        return folder
    start = fresh_start(arguments)
    fresh = load_checkpoint(start)
    state = fresh.model.state_dict()
    for name, (branches, losses) in BEFORE.items():
        settings = {"branches": branches, "loss": NOTHING | losses, **FROM_NOTHING}
        trained = load_checkpoint(train(arguments, arguments.runs / name, start, settings, arguments.epochs_before, 0))
        state |= trained.model.state_dict()  # of what both have (the norm of the maps), the second one's
    fresh.model.load_state_dict(state)
    save_checkpoint(folder, fresh.model, fresh.config, fresh.tokenizer)
    return folder


def train(
    arguments: argparse.Namespace, run: Path, start: Path, model: Mapping[str, Any], epochs: int, seed: int
) -> Path:
    """One `salm train fit`, resumed if it was begun: the folder of the trained model."""
    settings = {
        "run": str(run),
        "trainer": {"max_epochs": epochs},
        "model": {"start": str(start), **model},
        "data": {
            "manifest": str(arguments.data / "sounds/train/manifest.csv"),
            "teacher": str(arguments.data / "teachers/mn04_train.npz"),
            "teacher_model": str(arguments.data / "teachers/mn04_as_mAP_432.pt"),
            "repetition": seed,
        },
    }
    run.mkdir(parents=True, exist_ok=True)
    own = run / "settings.yaml"
    own.write_text(yaml.safe_dump(settings))
    configs = [CONFIGS / "salm-small.yaml", Path(__file__).with_name("variants.yaml"), *arguments.config, own]
    command = [sys.executable, "-m", "salm", "train", "fit", *(f"--config={path}" for path in configs)]
    sys.stderr.write(f"{run}: {epochs} epochs\n")
    with (run / "log.txt").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return run / "export"


def score(folder: Path, scenes: Path, labels: Path) -> dict[str, float]:
    """Shares of one model on the frozen scenes: of queries "<label> from the <direction>", captions, directions."""
    with progress_on_stderr(f"evaluating {folder}") as progress:
        _, results = evaluate(
            scenes, salm.load(folder), ("retrieval", "direction", "classify"),
            labels=labels, phrasings=("plain",), progress=progress,
        )  # fmt: skip
    found: Any = results
    queries = found["retrieval"].queries["plain"]
    return {
        "precision@1": queries.precision[1],
        "map": queries.mean_average_precision,
        "recall@10": found["retrieval"].captions["text_to_audio"].recall[10],
        "direction": found["direction"].zero_shot["joint"].accuracy,
        "label": found["classify"].scores["joint"].accuracy,
    }


def write(arguments: argparse.Namespace, scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """The scores with what they are scores of, replaced at once."""
    document = {
        "command": shlex.join(["python", "benchmarks/compare_variants.py", *sys.argv[1:]]),
        "steps": 100 * arguments.epochs,
        "steps_before": 100 * arguments.epochs_before,
        "scenes": "centre-v1",
        "scores": scores,
    }
    write_json(document, arguments.out)


def table(scores: Mapping[str, Mapping[str, Mapping[str, float]]], columns: Mapping[str, str]) -> str:
    """Means over the seeds and, behind ±, half the span from the lowest to the highest, in Markdown; in percent."""
    rows = [["training", *columns.values(), "seeds"], ["---"] * (len(columns) + 2)]
    for name, by_seed in scores.items():
        cells = [_mean_and_span([found[column] for found in by_seed.values()]) for column in columns]
        rows.append([name, *cells, str(len(by_seed))])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _mean_and_span(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {50 * (max(values) - min(values)):.1f}"


if __name__ == "__main__":
    main()
