"""Spatial captions by a language model: scene manifest -> the same scenes with rephrased spatial captions.

Source: Hu et al. 2025, arXiv 2507.16724. There, a language model rephrases each caption together with its compass
word (`salm.text.language_model`).

A model errs, so each answer passes `rewrite_checks.refusal` before it is used; what fails is replaced by a template
(`captions.spatial_caption`).
"""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from salm.errors import ConfigError
from salm.geometry import find_sector, sector_of
from salm.manifest import Scene
from salm.progress import Progress
from salm.text.captions import spatial_caption, strip_direction
from salm.text.rewrite_checks import refusal, tidy

CACHE_FILE = "answers.sqlite"


class Request(NamedTuple):
    """What the model is told: a caption without direction words, and one of the eight compass words."""

    caption: str
    direction: str


class Rephraser(Protocol):
    """Whatever answers requests; `language_model.LanguageModel` does."""

    @property
    def identity(self) -> str:
        """Everything that an answer depends on, apart from the request."""

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One answer per request, as it came."""


@dataclass(frozen=True)
class Rewrite:
    """Where one spatial caption came from.

    Attributes:
        scene: path of the scene.
        origin: "model", or "template" where the answer was refused.
        refused: None, or the failed check and what was wrong: "direction: names west, not north".
        answer: what the model said.
        cached: whether the answer was known before this run.
    """

    scene: str
    caption: str
    direction: str
    spatial_caption: str
    origin: str
    refused: str | None
    answer: str
    cached: bool


def rewrite_scenes(
    scenes: Sequence[Scene],
    model: Rephraser,
    cache: "AnswerCache",
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> tuple[list[Scene], list[Rewrite]]:
    """The scenes with one spatial caption for each caption, and where each came from.

    A scene of several sources is passed on as it is: its captions do not say which source they are about. Equal
    requests are asked once. Answers are kept in `cache` batch by batch: an interrupted run goes on where it was.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected 1 or more")
    asked = [_requests(scene) for scene in scenes]
    unique = list(dict.fromkeys(request for requests in asked for request in requests))
    keys = {request: digest(model.identity, *request) for request in unique}
    answers = {request: found for request in unique if (found := cache.find(keys[request])) is not None}
    known = frozenset(answers)
    # Prompts of similar length share a batch: little of it is padding.
    missing = sorted((request for request in unique if request not in known), key=lambda r: (len(r.caption), r))
    for start in range(0, len(missing), batch_size):
        if progress is not None:
            progress(len(answers), len(unique))
        batch = missing[start : start + batch_size]
        answered = dict(zip(batch, model.answer(batch), strict=True))
        cache.add((keys[request], model.identity, *request, answered[request]) for request in batch)
        answers |= answered
    if progress is not None:
        progress(len(answers), len(unique))
    rewrites = [
        [_rewrite(scene, request, answers[request], request in known, model.identity) for request in requests]
        for scene, requests in zip(scenes, asked, strict=True)
    ]
    rewritten = [
        replace(scene, spatial_captions=tuple(rewrite.spatial_caption for rewrite in found)) if found else scene
        for scene, found in zip(scenes, rewrites, strict=True)
    ]
    return rewritten, [rewrite for found in rewrites for rewrite in found]


def _requests(scene: Scene) -> list[Request]:
    """A request for each caption of a scene of one source."""
    if len(scene.sources) != 1:
        return []
    direction = sector_of(math.radians(scene.sources[0].azimuth_deg)).compass
    plain = [strip_direction(text) if find_sector(text) else text.strip() for text in scene.captions]
    return [Request(text or scene.sources[0].label, direction) for text in plain]


def _rewrite(scene: Scene, request: Request, answer: str, cached: bool, identity: str) -> Rewrite:
    text, refused = tidy(answer), refusal(*request, answer)
    if refused is not None:
        source = scene.sources[0]
        number = int(digest(identity, request.caption, str(source.azimuth_deg), str(source.elevation_deg))[:16], 16)
        generator = np.random.default_rng(number)
        azimuth_rad, elevation_rad = math.radians(source.azimuth_deg), math.radians(source.elevation_deg)
        text = spatial_caption(request.caption, azimuth_rad, elevation_rad, generator)
    origin = "model" if refused is None else "template"
    return Rewrite(scene.path.as_posix(), *request, text, origin, refused, answer, cached)


def digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class AnswerCache:
    """Answers by a hash of model, prompt, temperature, seed, caption and direction: one SQLite file in a folder.

    Answers are kept as they came, before any check, and each batch is committed at once.

    Raises:
        ConfigError: the file is not such a cache.
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / CACHE_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self.path, timeout=60.0)
        try:
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, identity TEXT NOT NULL, "
                    "caption TEXT NOT NULL, direction TEXT NOT NULL, answer TEXT NOT NULL)"
                )
            self._connection.execute("SELECT key, identity, caption, direction, answer FROM answers LIMIT 1")
        except sqlite3.Error as error:
            self._connection.close()
            raise ConfigError(
                f"{self.path}: expected a cache of answers, got a file that SQLite refuses ({error}); "
                "remove it or name another folder"
            ) from error

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def find(self, key: str) -> str | None:
        row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def add(self, rows: Iterable[tuple[str, str, str, str, str]]) -> None:
        """Keep rows of (key, identity, caption, direction, answer), in one durable step."""
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
