"""After the sounds: teach the text tower that a question in other words is the same question.

The audio tower has learned to meet certain sentences, above all "<label> from the <direction>". Here the text tower
learns to answer freer ones as its own frozen copy answers the plain one, while plain sentences keep their embeddings:
no sound has to be learned anew.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from salm.errors import ConfigError
from salm.geometry import SECTORS, Sector, direction_prompt
from salm.models.salm import SALM
from salm.processor import fast_autocast
from salm.text.captions import direction_phrase, direction_sentence, has_direction_word, spatial_caption
from salm.text.tokenizer import Tokenizer
from salm.train.text import TextTraining

FRAMES = (
    "show me {q}", "search for {q}", "give me a recording of {q}", "I want to hear {q}", "anything with {q}",
    "do you have {q}?", "was there {q}?", "could that be {q}?", "a file in which there is {q}", "every sound of {q}",
    "listen to {q}", "there should be {q}", "I am looking for {q}", "it was {q}", "{q}, please", "the one with {q}",
    "somebody recorded {q}", "please get {q}", "what about {q}", "only {q}", "{q}, if there is any", "{q} again",
    "{q} in the recording", "hear {q} here", "all takes with {q}", "can you hear {q}?", "an example of {q}",
    "maybe it is {q}", "my microphone picked up {q}", "that must be {q}", "they heard {q}", "where is {q}?",
    "audio with {q} in it", "noise of {q}", "something like {q}", "the scene contains {q}", "you will notice {q}",
)  # fmt: skip
"""Requests, questions and remarks around a caption with its direction, {q}."""
CLAUSES = (
    "{s} that can be heard {d}", "{s} which seems to be {d}", "{s} that takes place {d}", "{s} happening {d}",
    "{s} as it is heard {d}", "{d} somebody hears {s}", "{s}: that was {d}", "{s}, and it is {d}", "{s} arriving {d}",
    "now {d}: {s}", "{s} has been recorded {d}", "{s} not far away, {d}", "{d} of the microphone, {s}",
    "there it is, {s}, {d}", "{s} at some distance {d}",
)  # fmt: skip
"""A label, {s}, and its direction, {d}, in one clause."""


@dataclass(frozen=True)
class PhrasingShares:
    """Of a batch's sentences; the rest are captions as they are, which keep their embeddings.

    Attributes:
        labels, captions: with a direction, in other words.
        plain: "<label> from the <direction>".
        undirected: labels in frames without a direction.
        directions: sentences that name a direction alone.
    """

    labels: float = 0.45
    captions: float = 0.2
    plain: float = 0.1
    undirected: float = 0.1
    directions: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.labels, self.captions, self.plain, self.undirected, self.directions)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError("phrasing.shares: expected shares of at least 0 that add up to at most 1")


@dataclass(frozen=True)
class Phrasing:
    """Schedule and shares of `salm train phrasing`."""

    training: TextTraining = field(default_factory=lambda: TextTraining(num_steps=600, learning_rate=3e-4))
    shares: PhrasingShares = field(default_factory=PhrasingShares)


class PhrasingBatches:
    """Endless batches of (sentences, targets): sentences in other words, and the plain ones' present embeddings.

    Args:
        model: its text tower as it is now, of which a frozen copy is kept.
        labels: bare labels of the sounds. `captions`: sentences.
    """

    def __init__(
        self, model: SALM, tokenizer: Tokenizer, labels: Sequence[str], captions: Sequence[str], phrasing: Phrasing
    ) -> None:
        self.teacher, self.tokenizer, self.phrasing = copy.deepcopy(model).eval(), tokenizer, phrasing
        self.labels = [label for label in labels if not has_direction_word(label)]
        self.captions = [caption for caption in captions if not has_direction_word(caption)]
        if not self.labels or not self.captions:
            raise ConfigError("phrasing: expected labels and captions without directions of their own")

    def __iter__(self) -> Iterator[tuple[list[str], Tensor]]:
        generator = np.random.default_rng(self.phrasing.training.seed)
        while True:
            pairs = self.pairs(generator)
            yield [sentence for sentence, _ in pairs], self._targets([plain for _, plain in pairs])

    def pairs(self, generator: np.random.Generator) -> list[tuple[str, str]]:
        """One batch's sentences, each with the plain sentence that means the same."""
        shares, size = self.phrasing.shares, self.phrasing.training.batch_size
        numbers = [round(size * share) for share in (shares.labels, shares.captions, shares.plain, shares.undirected)]
        kinds = np.repeat(["label", "caption", "plain", "undirected"], numbers).tolist()
        kinds += ["direction"] * round(size * shares.directions)
        return [self._pair(kind, generator) for kind in (kinds + ["as it is"] * size)[:size]]

    def _pair(self, kind: str, generator: np.random.Generator) -> tuple[str, str]:
        sector = SECTORS[generator.integers(len(SECTORS))]
        label, caption = _any(self.labels, generator), _any(self.captions, generator)
        match kind:
            case "label":
                return rephrased(label, sector, generator), plain_query(label, sector)
            case "caption":
                framed = spatial_caption(caption, sector.azimuth_rad, 0.0, generator)
                return framed, plain_query(caption.rstrip(" ."), sector)
            case "plain":
                return plain_query(label, sector), plain_query(label, sector)
            case "undirected":
                return _any(FRAMES, generator).format(q=label), label
            case "direction":
                return direction_sentence(sector, generator), direction_prompt(sector)
        return caption, caption

    @torch.no_grad()
    def _targets(self, sentences: list[str]) -> Tensor:
        with fast_autocast():
            return self.teacher.encode_text(*self.tokenizer(sentences)).float()


def plain_query(text: str, sector: Sector) -> str:
    """The form that the audio tower has met most often."""
    return f"{text} from the {sector.compass}"


def rephrased(label: str, sector: Sector, generator: np.random.Generator) -> str:
    """A label and its direction as a request, a question, a remark, or one clause."""
    if generator.random() < 0.4:
        text = _any(CLAUSES, generator).format(s=label, d=direction_phrase(sector, generator))
        if generator.random() < 0.5:
            return text
    else:
        text = spatial_caption(label, sector.azimuth_rad, 0.0, generator).rstrip(".")
    return _any(FRAMES, generator).format(q=text)


def _any(texts: Sequence[str], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
