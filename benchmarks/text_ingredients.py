"""What the text tower's ingredients bring: the sentence teacher and varied words for directions, each left out once.

python benchmarks/text_ingredients.py --data ../shared/data --steps 400     # benchmarks/results/text_ingredients.json

Every tower learns for the same number of steps from the corpora of configs/salm-small-text.yaml. Without the teacher,
two captions of one recording (Clotho has five of each) find each other among those of the batch, both with the same
direction or both without one. Scores, of sentences alone:

- reworded: of the sentences in `reworded_labels.csv`, which say one of the 30 labels in other words, those that are
  closest to their label;
- directions: of "<label> from the <direction>" in the eight other phrasings of `salm eval retrieval`, which no training
  uses, those that are closest to the plain phrasing with their own direction, among the label's eight;
- both: the same among all labels and directions.
"""

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from output import write_json
from torch import Tensor
from torch.nn import functional

from salm.data.corpora import read_corpora
from salm.evaluate.retrieval import VARIED_FORMS, query_text
from salm.geometry import SECTORS, direction_prompt, sector_of
from salm.models.builders import build_model, salm_small
from salm.models.losses import contrastive_loss
from salm.models.salm import SALM
from salm.processor import fast_autocast
from salm.progress import progress_on_stderr
from salm.text.captions import has_direction_word, spatial_caption
from salm.text.tokenizer import Tokenizer
from salm.train.cli import sentence_teacher
from salm.train.schedule import warmup_cosine
from salm.train.text import SentenceBatches, TextTraining, embed_with_teacher, train_text_tower
from salm.weights.checkpoint import load_checkpoint
from salm.weights.registry import find_checkpoint

CONFIG = Path(__file__).parents[1] / "configs" / "salm-small-text.yaml"
REWORDED = Path(__file__).parent / "reworded_labels.csv"
TEACHER_AND_VARIED = "sentence teacher, varied words for directions"
PLAIN_WORDS = 'only "<caption> from the <compass word>"'
WITHOUT_TEACHER = "without the sentence teacher"
BUNDLED = "the bundled model's (2,000 steps, then `salm train phrasing`)"
SCALE = torch.tensor(1 / 0.07)
"""Inverse temperature of the contrastive loss."""


def main() -> None:
    """Train each tower that has no scores yet, score it and the bundled one, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with text and core_labels.txt"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder for the teacher's embeddings")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/text_ingredients.json"))
    parser.add_argument("--steps", type=int, default=400, help="of 128 sentences, for each tower")
    arguments = parser.parse_args()
    labels = (arguments.data / "core_labels.txt").read_text().splitlines()
    known = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    scores = known["scores"] if known.get("steps") == arguments.steps else {}
    for name in (TEACHER_AND_VARIED, PLAIN_WORDS, WITHOUT_TEACHER, BUNDLED):
        if name in scores:
            continue
        if name == BUNDLED:
            bundled = load_checkpoint(find_checkpoint("salm-small"))
            model, tokenizer = bundled.model, bundled.tokenizer
        else:
            model, tokenizer = train(name, arguments.data, arguments.cache, TextTraining(num_steps=arguments.steps))
        scores[name] = score(model, tokenizer, labels)
        document = {"command": shlex.join(["python", "benchmarks/text_ingredients.py", *sys.argv[1:]])}
        write_json(document | {"steps": arguments.steps, "scores": scores}, arguments.out)
    sys.stdout.write(table(scores))


def train(name: str, data: Path, cache: Path, training: TextTraining) -> tuple[SALM, Tokenizer]:
    """One tower with fresh weights."""
    config = salm_small()
    files = yaml.safe_load(CONFIG.read_text())["corpora"]
    captions = read_corpora(data / Path(file).relative_to("../shared/data") for file in files)
    tokenizer = Tokenizer.train(captions, config.text.vocabulary_size, config.text.max_tokens)
    torch.manual_seed(0)
    model = build_model(config)
    with progress_on_stderr(name) as progress:

        def tell(step: int, _: float) -> None:
            if progress is not None:
                progress(step, training.num_steps)

        if name == WITHOUT_TEACHER:
            meet(model, tokenizer, pairs(data / "text/clotho/train.csv", training), training, tell)
            return model, tokenizer
        meanings = embed_with_teacher(captions, sentence_teacher("minilm"), cache=cache)
        words: tuple[Any, ...] = ()
        if name == PLAIN_WORDS:
            words = (
                lambda caption, azimuth_rad, _, __: f"{caption} from the {sector_of(azimuth_rad).compass}",
                lambda sector, _: direction_prompt(sector),
            )
        batches = SentenceBatches(captions, meanings, config.embedding_width, training, *words)
        train_text_tower(model, tokenizer, batches, training, progress=tell)
    return model, tokenizer


def pairs(clotho: Path, training: TextTraining) -> Iterator[tuple[list[str], list[str]]]:
    """Endless batches of two captions for each of some recordings, both with one direction or both without."""
    with clotho.open(newline="", encoding="utf-8") as file:
        recordings = [[row[f"caption_{number}"] for number in range(1, 6)] for row in csv.DictReader(file)]
    recordings = [texts for texts in recordings if not any(map(has_direction_word, texts))]
    generator = np.random.default_rng(training.seed)
    while True:
        first, second = [], []
        for row in generator.choice(len(recordings), training.batch_size // 2, replace=False):
            both = [recordings[row][column] for column in generator.choice(5, 2, replace=False)]
            if generator.random() < training.spatial_share:
                azimuth_rad = SECTORS[generator.integers(len(SECTORS))].azimuth_rad
                both = [spatial_caption(text, azimuth_rad, 0.0, generator) for text in both]
            first.append(both[0])
            second.append(both[1])
        yield first, second


def meet(
    model: SALM,
    tokenizer: Tokenizer,
    batches: Iterator[tuple[list[str], list[str]]],
    training: TextTraining,
    progress: Callable[[int, float], None],
) -> None:
    """Fit the text tower so that the two captions of a recording find each other: InfoNCE."""
    parameters = [*model.text_encoder.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    warmup_steps = round(training.num_steps * training.warmup_share)
    model.text_encoder.train()
    for step, both in zip(range(training.num_steps), batches, strict=False):
        rate = warmup_cosine(step, warmup_steps=warmup_steps, total_steps=training.num_steps)
        optimizer.param_groups[0]["lr"] = training.learning_rate * rate
        with fast_autocast():
            first, second = (model.encode_text(*tokenizer(texts)) for texts in both)
        loss = contrastive_loss(first, second, SCALE, targets="instance")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress(step + 1, float(loss.detach()))
    model.text_encoder.eval()


@torch.inference_mode()
def score(model: SALM, tokenizer: Tokenizer, labels: Sequence[str]) -> dict[str, float]:
    """Shares of the sentences that are closest to what they mean, see above."""

    def embed(sentences: Sequence[str]) -> Tensor:
        parts = [model.encode_text(*tokenizer(sentences[i : i + 64])) for i in range(0, len(sentences), 64)]
        return functional.normalize(torch.cat(parts), dim=-1)

    with REWORDED.open(newline="", encoding="utf-8") as file:
        reworded = [(labels.index(row["label"]), row["sentence"]) for row in csv.DictReader(file)]
    meant = torch.tensor([label for label, _ in reworded])
    found = (embed([sentence for _, sentence in reworded]) @ embed(labels).T).argmax(dim=1)
    asked = [(label, sector) for label in labels for sector in SECTORS]
    plain = embed([f"{label} from the {sector.compass}" for label, sector in asked])
    varied = embed([query_text(form, label, sector) for form in VARIED_FORMS for label, sector in asked])
    similar = (varied @ plain.T).view(len(VARIED_FORMS), len(labels), len(SECTORS), len(labels), len(SECTORS))
    own = similar.diagonal(dim1=1, dim2=3)  # forms, sectors, the label's eight sentences, labels
    sectors = torch.arange(len(SECTORS))
    pair = similar.flatten(1, 2).flatten(2).argmax(dim=2)
    return {
        "reworded": float((found == meant).float().mean()),
        "directions": float((own.argmax(dim=2) == sectors[:, None]).float().mean()),
        "both": float((pair == torch.arange(len(asked))).float().mean()),
    }


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """In Markdown, in percent."""
    columns = list(next(iter(scores.values())))
    rows = [["text tower", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(f"{100 * found[column]:.1f}" for column in columns)] for name, found in scores.items()]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


if __name__ == "__main__":
    main()
