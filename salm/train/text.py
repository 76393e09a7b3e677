"""Before any sound: teach the text tower what sentences mean and which direction they name.

A small RoBERTa cannot learn English from a few thousand sound captions. It first learns to reproduce the sentence
embeddings of a teacher (MiniLM) on the caption corpora, in a space laid out for SALM's arithmetic: the leading
dimensions hold the meaning, the following `DIRECTION_WIDTH` hold the direction. A caption with a direction is the
normalised sum of both, which is what equation 2 asks of the audio side as well.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from salm.errors import ConfigError
from salm.geometry import SECTORS, Sector
from salm.models.salm import SALM
from salm.processor import fast_autocast
from salm.text.captions import direction_sentence, has_direction_word, spatial_caption
from salm.text.tokenizer import Tokenizer
from salm.train.schedule import warmup_cosine

_HARMONIC_POWER = (0.4, 0.3, 0.2, 0.1)
DIRECTION_WIDTH = 2 * len(_HARMONIC_POWER)


@dataclass(frozen=True)
class TextTraining:
    """Schedule of the text tower's distillation. Shares are of a batch's sentences; the rest are plain captions."""

    num_steps: int = 2_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    spatial_share: float = 0.45
    direction_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.spatial_share + self.direction_share > 1:
            raise ConfigError("text training: spatial_share and direction_share add up to more than 1")


def direction_code(sector: Sector) -> NDArray[np.float32]:
    """Unit vector (8,) of a sector: cosines and sines of one to four turns of its azimuth.

    Neighbours are nearly orthogonal (0.04) and opposite sectors point apart (-0.2).
    """
    turns = np.arange(1, len(_HARMONIC_POWER) + 1) * sector.azimuth_rad
    weights = np.sqrt(np.asarray(_HARMONIC_POWER))
    return np.concatenate([weights * np.cos(turns), weights * np.sin(turns)]).astype(np.float32)


@torch.inference_mode()
def embed_with_teacher(
    sentences: Sequence[str],
    model_folder: str | Path,
    *,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Mean-pooled, L2-normalised sentence embeddings of a Hugging Face encoder, (sentences, width).

    Kept in `cache` under a hash of model and sentences, so that a rerun costs nothing.
    """
    from transformers import AutoModel, AutoTokenizer

    digest = hashlib.sha256("\n".join([Path(model_folder).name, *sentences]).encode()).hexdigest()[:16]
    stored = cache / f"sentences-{digest}.npy"
    if stored.is_file():
        return np.load(stored)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    teacher = AutoModel.from_pretrained(model_folder).eval()
    embeddings = np.zeros((len(sentences), teacher.config.hidden_size), dtype=np.float32)
    done = 0
    for rows in _by_length(sentences, 128):
        batch = tokenizer(
            [sentences[row] for row in rows], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        with fast_autocast():
            hidden = teacher(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        embeddings[rows] = functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
        done += len(rows)
        if progress is not None:
            progress(done, len(sentences))
    cache.mkdir(parents=True, exist_ok=True)
    temporary = stored.with_suffix(f".{os.getpid()}.npy")
    np.save(temporary, embeddings)
    os.replace(temporary, stored)
    return embeddings


class SentenceBatches:
    """Endless batches of (sentences, targets): captions, captions with a direction, and bare directions.

    Args:
        captions: sentences; those that name a direction themselves are used as they are, without another one.
        meanings: the teacher's embeddings of them, (captions, width).
        embedding_width: width of the targets, at least the teacher's plus `DIRECTION_WIDTH`.
        place, name: make a caption one with a direction (`spatial_caption`), and a sentence of a direction alone.
    """

    def __init__(
        self,
        captions: Sequence[str],
        meanings: NDArray[np.float32],
        embedding_width: int,
        training: TextTraining,
        place: Callable[[str, float, float, np.random.Generator], str] = spatial_caption,
        name: Callable[[Sector, np.random.Generator], str] = direction_sentence,
    ) -> None:
        self.width = meanings.shape[1]
        if self.width + DIRECTION_WIDTH > embedding_width:
            raise ConfigError(
                f"the teacher's {self.width} dimensions and {DIRECTION_WIDTH} for the direction do not fit into "
                f"{embedding_width}"
            )
        centred = meanings - meanings.mean(axis=0)
        self.meanings = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        self.captions, self.embedding_width, self.training = captions, embedding_width, training
        self.place, self.name = place, name
        self.placeable = np.flatnonzero([not has_direction_word(caption) for caption in captions])
        self.codes = np.stack([direction_code(sector) for sector in SECTORS])

    def __iter__(self) -> Iterator[tuple[list[str], Tensor]]:
        generator = np.random.default_rng(self.training.seed)
        while True:
            yield self._batch(generator)

    def _batch(self, generator: np.random.Generator) -> tuple[list[str], Tensor]:
        size = self.training.batch_size
        num_spatial = round(size * self.training.spatial_share)
        num_bare = round(size * self.training.direction_share)
        targets = np.zeros((size, self.embedding_width), dtype=np.float32)
        code = slice(self.width, self.width + DIRECTION_WIDTH)
        sentences: list[str] = []
        for row in range(size):
            sector = SECTORS[generator.integers(len(SECTORS))]
            if row < num_bare:
                sentences.append(self.name(sector, generator))
                targets[row, code] = self.codes[sector.index]
                continue
            spatial = row < num_bare + num_spatial
            pick = int(generator.choice(self.placeable) if spatial else generator.integers(len(self.captions)))
            targets[row, : self.width] = self.meanings[pick]
            caption = self.captions[pick]
            if spatial:
                caption = self.place(caption, sector.azimuth_rad, 0.0, generator)
                targets[row, code] = self.codes[sector.index]
            sentences.append(caption)
        return sentences, torch.from_numpy(targets)


def train_text_tower(
    model: SALM,
    tokenizer: Tokenizer,
    batches: Iterable[tuple[list[str], Tensor]],
    training: TextTraining,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> Float[Tensor, "steps"]:
    """Fit the model's text encoder and projection to the batches' targets; returns the loss of every step.

    Args:
        batches: endless: sentences, and the embeddings that they should have.

    Loss: 1 - cosine. AdamW, linear warm-up, cosine decay; `progress` is called with step and loss.
    """
    parameters = [*model.text_encoder.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    warmup_steps = round(training.num_steps * training.warmup_share)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, warmup_steps=warmup_steps, total_steps=training.num_steps)
    )
    model.text_encoder.train()
    losses = torch.zeros(training.num_steps)
    for step, (sentences, targets) in zip(range(training.num_steps), batches, strict=False):
        optimizer.zero_grad(set_to_none=True)
        for rows in _by_length(sentences, 64):
            ids, mask = tokenizer([sentences[row] for row in rows])
            with fast_autocast():
                predicted = model.encode_text(ids, mask)
            distance = 1 - functional.cosine_similarity(predicted.float(), targets[rows], dim=-1)
            loss = distance.sum() / len(sentences)
            loss.backward()
            losses[step] += loss.detach()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, float(losses[step]))
    model.text_encoder.eval()
    return losses


def _by_length(sentences: Sequence[str], size: int) -> Iterator[list[int]]:
    """Rows in groups of like length: padding would otherwise be half of the work."""
    order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
    return (order[start : start + size] for start in range(0, len(order), size))
