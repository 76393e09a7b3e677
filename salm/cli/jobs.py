"""One recording -> its rows and vectors, or why not: in this process, or in a worker of `salm.cli.ray_encoding`."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from salm.errors import AudioFormatError, ConfigError
from salm.geometry import CONVENTIONS

if TYPE_CHECKING:
    from salm.embedder import Embedder


@dataclass(frozen=True)
class Encoding:
    """How recordings are read and cut.

    Raises:
        ConfigError: a value that no recording can be read with.
    """

    convention: str = "ambix"
    window_s: float = 10.0
    hop_s: float = 5.0
    batch_size: int = 8

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


class Job(NamedTuple):
    """One recording to look at: its path, what its manifest says about it, and its content hash in the index."""

    path: str
    metadata: dict[str, Any]
    known_hash: str | None


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


def encode_job(embedder: "Embedder", encoding: Encoding, job: Job) -> Outcome:
    """Encode a recording unless the index has it as it is."""
    try:
        return _encode(embedder, encoding, job)
    except AudioFormatError as error:
        return Outcome(job.path, error=str(error))
    except OSError as error:
        return Outcome(job.path, error=f"{job.path}: cannot be read ({error.strerror}); check the file")


def _encode(embedder: "Embedder", encoding: Encoding, job: Job) -> Outcome:
    path = job.path
    if not _is_unicode(path):
        raise AudioFormatError(f"{path!r}: the name is not valid Unicode; rename the file")
    file = Path(path)
    if file.exists() and not file.is_file():
        raise AudioFormatError(f"{path}: a folder or a pipe; expected an audio file")
    content_hash = encoding.content_hash(file, job.metadata)
    if job.known_hash == content_hash:
        return Outcome(path)
    windows = embedder.encode_windows(
        file,
        window_s=encoding.window_s,
        hop_s=encoding.hop_s,
        convention=encoding.convention,
        batch_size=encoding.batch_size,
    )
    vectors, rows = [], []
    for window in windows:
        vectors.append(window.joint)
        rows.append(
            job.metadata
            | {
                "path": path,
                "start_s": window.start_s,
                "end_s": window.end_s,
                "azimuth_deg": window.azimuth_deg,
                "elevation_deg": window.elevation_deg,
                "content_hash": content_hash,
            }
        )
    return Outcome(path, np.stack(vectors), rows)


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
