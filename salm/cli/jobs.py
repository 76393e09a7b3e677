"""What is to be done with a recording (`Job`), how (`Encoding`), and what became of it (`Outcome`)."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from salm.errors import ConfigError
from salm.geometry import CONVENTIONS


@dataclass(frozen=True)
class Encoding:
    """How recordings are read, cut and encoded; `precision` as `salm.load` takes it.

    Raises:
        ConfigError: a value that no recording can be read with.
    """

    convention: str = "ambix"
    window_s: float = 10.0
    hop_s: float = 5.0
    batch_size: int = 8
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ConfigError(f"unknown convention {self.convention!r}; expected one of {', '.join(CONVENTIONS)}")
        if not 0 < self.hop_s <= self.window_s < math.inf:
            raise ConfigError(f"expected 0 < hop <= window in seconds, got hop {self.hop_s} and window {self.window_s}")
        if self.batch_size < 1:
            raise ConfigError(f"expected a batch size of at least 1, got {self.batch_size}")

    def content_hash(self, path: Path, metadata: dict[str, Any]) -> str:
        """What determines the rows of a recording, its model aside."""
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        described = f"sha256:{content} {self.convention} {self.window_s:g}/{self.hop_s:g} s"
        if metadata:
            text = json.dumps(metadata, sort_keys=True)
            described += f" metadata:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return described


class Begun(NamedTuple):
    """The first windows of a recording, which an interrupted run has encoded.

    Args:
        content_hash: what the recording was then.
        vectors: shape (windows, width).
        rows: one per window, without what all windows of the recording share.
    """

    content_hash: str
    vectors: np.ndarray
    rows: list[dict[str, Any]]


class Job(NamedTuple):
    """One recording to look at.

    Args:
        metadata: what its manifest says about it.
        known_hash: its content hash in the index.
        begun: the windows that need not be encoded again if it still is as it was then.
    """

    path: str
    metadata: dict[str, Any]
    known_hash: str | None
    begun: Begun | None = None


class Outcome(NamedTuple):
    """What became of one recording: its windows, nothing if it is as the index has it, or an error.

    Args:
        vectors: shape (windows, width); None if it was not encoded.
        rows: one per window.
        error: why it cannot be used.
    """

    path: str
    vectors: np.ndarray | None = None
    rows: list[dict[str, Any]] | None = None
    error: str | None = None
