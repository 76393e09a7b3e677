"""A folder of recordings -> an index that is up to date with it: the library function behind `salm index`.

A recording is encoded again only if its content, the way it is cut and read, or what its scene manifest says about it
has changed; `content_hash` in the index holds all of that. Commits are far enough apart to cost little and near enough
to lose little; an interruption, or an error in the midst of it, commits what is done.
"""

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from salm_index import Index

import salm
from salm.errors import AudioFormatError, ConfigError, ManifestError
from salm.geometry import CONVENTIONS
from salm.manifest import Scene, read_scenes
from salm.progress import Progress

if TYPE_CHECKING:
    from salm.embedder import Embedder

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
MANIFEST_NAME = "scenes.jsonl"
COMMIT_S = 30.0
COMMIT_SHARE = 0.05
"""A commit now and then merges what earlier ones wrote: at most about this share of the time goes into commits."""


@dataclass
class IndexReport:
    """What `update_index` did; recordings by their path in the index, `search` says how it is searched."""

    index: Path
    model: str
    search: str = ""
    num_windows: int = 0
    num_recordings: int = 0
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; of the unchanged recordings only their number."""
        failed = [{"path": path, "error": message} for path, message in self.failed.items()]
        return asdict(self) | {"index": str(self.index), "unchanged": len(self.unchanged), "failed": failed}


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


def update_index(
    source: Path,
    index_path: Path,
    *,
    model: str = "salm-small",
    convention: str = "ambix",
    window_s: float = 10.0,
    hop_s: float = 5.0,
    batch_size: int = 8,
    prune: bool = False,
    kind: str | None = None,
    recall: float | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Bring an index up to date with a folder of recordings, or with one file.

    Recordings of other folders in the same index stay as they are. One that cannot be read is reported, and what the
    index holds of it stays.

    Args:
        source: searched with all folders under it, hidden ones aside; a `scenes.jsonl` in it gives the rows label and
            true direction (`label`, `true_azimuth_deg`, `true_elevation_deg`).
        index_path: made if it does not exist.
        model: what `salm.load` takes.
        prune: remove recordings under `source` that are gone.
        kind, recall: how the index is searched, as in `salm_index.Index.create`; None leaves an index as it is.
        progress: called with the number of recordings looked at and of all.

    Raises:
        AudioFormatError: there is nothing to index.
        ConfigError: a value that no recording can be read with.
        SalmError: the model cannot be loaded.
        SalmIndexError: the index cannot be read or written, or was made with another model.
    """
    encoding = Encoding(convention, window_s, hop_s, batch_size)
    source = source.resolve()
    files = find_recordings(source)
    known = {path: content for path, content in _indexed(index_path).items() if _is_under(path, source)}
    if not files and not known:
        raise AudioFormatError(f"{source}: no {', '.join(s[1:] for s in SUFFIXES)} files in it; expected recordings")
    embedder = salm.load(model)
    with _open(index_path, embedder, kind, recall) as index:
        report = IndexReport(index_path, index.model)
        _Update(index, embedder, encoding, known, _scenes(source), report).run(files, progress)
        found = {str(file) for file in files}
        gone = [path for path in known if path not in found]
        if prune:
            index.remove(gone)
            report.removed = gone
        else:
            report.vanished = gone
        report.num_windows, report.num_recordings = len(index), len(index.paths())
        report.search = index.stats().search
    return report


def find_recordings(source: Path) -> list[Path]:
    """Audio files under a folder, sorted, hidden files and folders left out; or the file itself.

    Raises:
        AudioFormatError: there is no such folder, or it cannot be listed.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise AudioFormatError(f"{source}: no such folder; expected a folder of recordings")

    def refuse(error: OSError) -> None:
        raise AudioFormatError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions")

    found = []
    for folder, subfolders, names in os.walk(source, onerror=refuse):
        subfolders[:] = (name for name in subfolders if not name.startswith("."))
        found += [Path(folder, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    return sorted(found)


class _Update:
    """One run over the recordings: what is encoded but not yet committed, and what goes into the report."""

    def __init__(
        self,
        index: Index,
        embedder: "Embedder",
        encoding: Encoding,
        known: dict[str, str | None],
        scenes: dict[str, dict[str, Any]],
        report: IndexReport,
    ) -> None:
        self.index, self.embedder, self.encoding = index, embedder, encoding
        self.known, self.scenes, self.report = known, scenes, report
        # One entry per recording, so that an interruption never leaves half of one behind.
        self.pending: list[tuple[str, list[np.ndarray], list[dict[str, Any]]]] = []
        self.next_commit_s = time.monotonic() + COMMIT_S

    def run(self, files: list[Path], progress: Progress | None) -> None:
        try:
            for number, file in enumerate(files, start=1):
                try:
                    self.visit(file)
                except AudioFormatError as error:
                    self.report.failed[str(file)] = str(error)
                except OSError as error:
                    self.report.failed[str(file)] = f"{file}: cannot be read ({error.strerror}); check the file"
                if time.monotonic() >= self.next_commit_s:
                    self.commit()
                if progress is not None:
                    progress(number, len(files))
        finally:
            self.commit()

    def visit(self, file: Path) -> None:
        """Encode a recording unless the index has it as it is."""
        path = str(file)
        if not _is_unicode(path):
            raise AudioFormatError(f"{path!r}: the name is not valid Unicode; rename the file")
        if file.exists() and not file.is_file():
            raise AudioFormatError(f"{path}: a folder or a pipe; expected an audio file")
        metadata = self.scenes.get(path, {})
        content_hash = self.encoding.content_hash(file, metadata)
        if self.known.get(path) == content_hash:
            self.report.unchanged.append(path)
            return
        windows = self.embedder.encode_windows(
            file,
            window_s=self.encoding.window_s,
            hop_s=self.encoding.hop_s,
            convention=self.encoding.convention,
            batch_size=self.encoding.batch_size,
        )
        vectors, rows = [], []
        for window in windows:
            vectors.append(window.joint)
            rows.append(
                metadata
                | {
                    "path": path,
                    "start_s": window.start_s,
                    "end_s": window.end_s,
                    "azimuth_deg": window.azimuth_deg,
                    "elevation_deg": window.elevation_deg,
                    "content_hash": content_hash,
                }
            )
        self.pending.append((path, vectors, rows))
        (self.report.changed if path in self.known else self.report.added).append(path)

    def commit(self) -> None:
        """Make everything encoded so far durable."""
        started_s = time.monotonic()
        if self.pending:
            vectors = np.stack([vector for _, windows, _ in self.pending for vector in windows])
            rows = [row for _, _, windows in self.pending for row in windows]
            self.index.replace([path for path, _, _ in self.pending], vectors, rows)
            self.pending = []
        finished_s = time.monotonic()
        self.next_commit_s = finished_s + max(COMMIT_S, (finished_s - started_s) / COMMIT_SHARE)


def _can_create(index_path: Path) -> bool:
    return not index_path.exists() or (index_path.is_dir() and not any(index_path.iterdir()))


def _indexed(index_path: Path) -> dict[str, str | None]:
    """Recordings and content hashes of the index at a path; none where a new one can be made."""
    if _can_create(index_path):
        return {}
    with Index.open(index_path) as index:
        return index.paths()


def _open(index_path: Path, embedder: "Embedder", kind: str | None, recall: float | None) -> Index:
    if _can_create(index_path):
        chosen: dict[str, Any] = {"kind": kind, "recall": recall}
        given = {name: value for name, value in chosen.items() if value is not None}
        return Index.create(index_path, embedder.embedding_width, model=embedder.model_id, **given)
    index = Index.open(index_path, model=embedder.model_id)
    stats = index.stats()
    if kind not in (None, stats.wanted_kind) or recall not in (None, stats.wanted_recall):
        index.compact(kind=kind, recall=recall)
    return index


def _is_under(path: str, source: Path) -> bool:
    return path == str(source) or path.startswith(str(source).rstrip(os.sep) + os.sep)


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _scenes(source: Path) -> dict[str, dict[str, Any]]:
    """Metadata of each recording that a scene manifest in the folder describes."""
    manifest = source / MANIFEST_NAME
    if not manifest.is_file():
        return {}
    try:
        return {str(scene.path): _metadata(scene) for scene in read_scenes(manifest)}
    except ManifestError as error:
        raise ManifestError(f"{error}; mend or rename {MANIFEST_NAME}") from error


def _metadata(scene: Scene) -> dict[str, Any]:
    first = scene.sources[0]
    return {
        "label": " + ".join(source.label for source in scene.sources),
        "true_azimuth_deg": first.azimuth_deg,
        "true_elevation_deg": first.elevation_deg,
    }
