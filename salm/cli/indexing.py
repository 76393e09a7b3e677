"""A folder of recordings -> an index that is up to date with it: the library function behind `salm index`.

The index is a folder, or a collection of a Milvus server (`Store`); recordings are encoded in this process, or by
workers of Ray (`salm.cli.ray_encoding`), which give the same vectors.

A recording is encoded again only if its content, the way it is cut and read, or what its scene manifest says about it
has changed; `content_hash` in the index holds all of that. Commits are far enough apart to cost little and near enough
to lose little; an interruption, or an error in the midst of it, commits what is done. Of a long recording that was
being encoded then, the windows that are done wait beside the index for the next run (`salm.cli.unfinished`).
"""

import os
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from salm_index import Index, IndexNotFoundError, MilvusIndex

import salm
from salm.cli.encoding import encode_jobs
from salm.cli.index_progress import OnDone, Tracker
from salm.cli.jobs import Begun, Encoding, Job, Outcome
from salm.cli.locate import Store
from salm.cli.unfinished import Unfinished
from salm.errors import AudioFormatError, ConfigError, ManifestError
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

    index: Path | Store
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


def update_index(
    source: Path,
    index_path: Path | Store,
    *,
    model: str = "salm-small",
    convention: str = "ambix",
    window_s: float = 10.0,
    hop_s: float = 5.0,
    batch_size: int = 8,
    precision: str = "float32",
    prune: bool = False,
    kind: str | None = None,
    recall: float | None = None,
    workers: str | None = None,
    progress: Progress | None = None,
    on_done: OnDone | None = None,
) -> IndexReport:
    """Bring an index up to date with a folder of recordings, or with one file.

    Recordings of other folders in the same index stay as they are. One that cannot be read is reported, and what the
    index holds of it stays.

    Args:
        source: searched with all folders under it, hidden ones aside; a `scenes.jsonl` in it gives the rows label and
            true direction (`label`, `true_azimuth_deg`, `true_elevation_deg`).
        index_path: a folder or a store; made if it does not exist.
        model, precision: what `salm.load` takes.
        prune: remove recordings under `source` that are gone.
        kind, recall: how the index is searched, as in `salm_index.Index.create`; None leaves an index as it is.
        workers: "ray" for one worker per CPU of a Ray cluster, "ray:N" for N of them; None encodes in this process.
        progress: called with the number of recordings looked at and of all.
        on_done: called after each of them and, without workers, after each window.

    Raises:
        AudioFormatError: there is nothing to index.
        ConfigError: a value that no recording can be read with.
        DependencyError: Ray is not installed.
        SalmError: the model cannot be loaded.
        SalmIndexError: the index cannot be read or written, or was made with another model.
    """
    encoding = Encoding(convention, window_s, hop_s, batch_size, precision)
    num_workers = None if workers is None else parse_workers(workers)
    source = source.resolve()
    files = find_recordings(source)
    known = {path: content for path, content in _indexed(index_path).items() if _is_under(path, source)}
    if not files and not known:
        raise AudioFormatError(f"{source}: no {', '.join(s[1:] for s in SUFFIXES)} files in it; expected recordings")
    embedder = salm.load(model, precision=precision)
    with _open(index_path, embedder, kind, recall) as index:
        report = IndexReport(index_path, index.model)
        unfinished = None if isinstance(index_path, Store) else Unfinished(index_path, index.model)
        jobs = _jobs(files, known, _scenes(source), {} if unfinished is None else unfinished.load())
        update = _Update(index, known, report, unfinished)
        tracker = Tracker([job.path for job in jobs], progress, on_done)
        outcomes: Generator[Outcome, None, None]
        if num_workers is None:
            outcomes = encode_jobs(embedder, encoding, jobs, tracker.on_windows, unfinished)
        else:
            from salm.cli.ray_encoding import encode_with_ray

            outcomes = encode_with_ray(model, embedder.model_id, encoding, jobs, num_workers)
        with closing(outcomes):
            update.run(outcomes, tracker)
        found = {str(file) for file in files}
        gone = [path for path in known if path not in found]
        if prune:
            index.remove(gone)
            report.removed = gone
        else:
            report.vanished = gone
        if isinstance(index, MilvusIndex):
            # A folder settles this by itself with each commit.
            index.compact(kind=kind, recall=recall)
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


def parse_workers(workers: str) -> int:
    """Read "ray" or "ray:N"; 0 stands for as many as there are CPUs.

    Raises:
        ConfigError: something else.
    """
    kind, colon, count = workers.partition(":")
    if kind != "ray" or (colon and not (count.isascii() and count.isdigit() and int(count) > 0)):
        raise ConfigError(f"--workers: expected ray, or ray:N for N workers, got {workers!r}")
    return int(count or 0)


class _Update:
    """One run over the recordings: what is encoded but not yet committed, and what goes into the report."""

    def __init__(
        self,
        index: Index | MilvusIndex,
        known: Mapping[str, str | None],
        report: IndexReport,
        unfinished: Unfinished | None,
    ) -> None:
        self.index, self.known, self.report, self.unfinished = index, known, report, unfinished
        # One entry per recording, so that an interruption never leaves half of one behind.
        self.pending: list[Outcome] = []
        self.next_commit_s = time.monotonic() + COMMIT_S

    def run(self, outcomes: Iterable[Outcome], tracker: Tracker) -> None:
        try:
            for outcome in outcomes:
                self.take(outcome)
                if time.monotonic() >= self.next_commit_s:
                    self.commit()
                tracker.on_recording(outcome.path)
        finally:
            self.commit()
            # Workers finish in any order.
            for listed in (self.report.added, self.report.changed, self.report.unchanged):
                listed.sort()

    def take(self, outcome: Outcome) -> None:
        path = outcome.path
        if outcome.error is not None:
            self.report.failed[path] = outcome.error
        elif outcome.vectors is None:
            self.report.unchanged.append(path)
        else:
            self.pending.append(outcome)
            (self.report.changed if path in self.known else self.report.added).append(path)

    def commit(self) -> None:
        """Make everything encoded so far durable."""
        started_s = time.monotonic()
        if self.pending:
            vectors = np.concatenate([outcome.vectors for outcome in self.pending if outcome.vectors is not None])
            rows = [row for outcome in self.pending for row in outcome.rows or ()]
            self.index.replace([outcome.path for outcome in self.pending], vectors, rows)
            if self.unfinished is not None:
                for outcome in self.pending:
                    self.unfinished.forget(outcome.path)
            self.pending = []
        finished_s = time.monotonic()
        self.next_commit_s = finished_s + max(COMMIT_S, (finished_s - started_s) / COMMIT_SHARE)


def _can_create(index_path: Path) -> bool:
    return not index_path.exists() or (index_path.is_dir() and not any(index_path.iterdir()))


def _indexed(place: Path | Store) -> dict[str, str | None]:
    """Recordings and content hashes of the index at a place; none where a new one can be made."""
    if isinstance(place, Store):
        try:
            with place.open() as stored:
                return stored.paths()
        except IndexNotFoundError:
            return {}
    if _can_create(place):
        return {}
    with Index.open(place) as index:
        return index.paths()


def _open(place: Path | Store, embedder: "Embedder", kind: str | None, recall: float | None) -> Index | MilvusIndex:
    if isinstance(place, Store):
        try:
            return place.open(embedder.model_id)
        except IndexNotFoundError:
            return place.create(embedder.embedding_width, model=embedder.model_id, kind=kind, recall=recall)
    if _can_create(place):
        chosen: dict[str, Any] = {"kind": kind, "recall": recall}
        given = {name: value for name, value in chosen.items() if value is not None}
        return Index.create(place, embedder.embedding_width, model=embedder.model_id, **given)
    index = Index.open(place, model=embedder.model_id)
    stats = index.stats()
    if kind not in (None, stats.wanted_kind) or recall not in (None, stats.wanted_recall):
        index.compact(kind=kind, recall=recall)
    return index


def _jobs(
    files: Iterable[Path],
    known: Mapping[str, str | None],
    scenes: Mapping[str, dict[str, Any]],
    begun: Mapping[str, Begun],
) -> list[Job]:
    return [Job(path, scenes.get(path, {}), known.get(path), begun.get(path)) for path in map(str, files)]


def _is_under(path: str, source: Path) -> bool:
    return path == str(source) or path.startswith(str(source).rstrip(os.sep) + os.sep)


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
