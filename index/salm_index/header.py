"""`index.json`: the one small file that says which generation of an index is the committed one, and what it holds.

A generation is a list of segments (vectors, their rows, perhaps lists for a fast search) and of removed ids. All these
files never change once `index.json` names them. Replacing `index.json` is the commit.

Schema 1 had one segment that every commit wrote anew; it is read as such, and the next commit writes schema 2.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from salm_index.errors import IndexAccessError, IndexCorruptError, IndexNotFoundError, SchemaVersionError

HEADER_NAME = "index.json"
SCHEMA_VERSION = 2
METRIC = "inner_product"
CONVENTION = (
    "azimuth_deg counter-clockwise from the front in (-180, 180], +90 = left; elevation_deg up from the horizon"
)
RESTORE = "restore the index folder from a backup, or delete it and index the recordings again"

KINDS = ("auto", "flat", "ivf")
"""How windows are searched: all of them (flat), the nearest lists of them (ivf), or whichever suits their number."""

FILE_NAMES = {
    "vectors": re.compile(r"vectors-\d{8,}(-\d+)?\.faiss"),
    "rows": re.compile(r"rows-\d{8,}(-\d+)?\.sqlite"),
    "lists": re.compile(r"lists-\d{8,}(-\d+)?\.faiss"),
    "removed": re.compile(r"removed-\d{8,}\.npy"),
}


@dataclass(frozen=True)
class FileRecord:
    """One data file, as it must be found on disk."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ListsRecord:
    """The inverted lists of a segment, and how many of them a search reads.

    Args:
        file: the FAISS file.
        num_lists: lists that the vectors are divided into.
        num_probes: lists that are read for a query.
        candidates_per_hit: how many times k candidates are scored exactly.
        recall: share of the true neighbours that was found so when the lists were made; see `salm_index.tuning`.
        num_queries: queries that this was measured with.
    """

    file: FileRecord
    num_lists: int
    num_probes: int
    candidates_per_hit: int
    recall: float
    num_queries: int


@dataclass(frozen=True)
class SegmentRecord:
    """Some of the windows of an index, with files of their own.

    Args:
        generation: the commit that wrote it.
        num_windows: vectors in it, removed ones included.
        vectors: the FAISS file.
        rows: the SQLite file.
        lists: none where every search reads all vectors.
    """

    generation: int
    num_windows: int
    vectors: FileRecord
    rows: FileRecord
    lists: ListsRecord | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files of the segment."""
        return (self.vectors, self.rows, *((self.lists.file,) if self.lists else ()))


@dataclass(frozen=True)
class Header:
    """The contents of `index.json`.

    Args:
        model: name and fingerprint of the model that made the vectors.
        dimension: length of each vector.
        generation: number of commits since the index was created.
        num_windows: vectors in the index, each with its row.
        num_recordings: distinct paths among the rows.
        next_id: the id of the next window; ids grow and are never used again.
        max_norm: an upper bound of the vectors' Euclidean norms.
        segments: in the order of their ids.
        removed: ids of windows that are in a segment but no longer in the index (npy); none if there are none.
        kind: one of `KINDS`.
        recall: what a search that does not read everything must reach.
    """

    model: str
    dimension: int
    generation: int = 0
    num_windows: int = 0
    num_recordings: int = 0
    next_id: int = 0
    max_norm: float = 0.0
    segments: tuple[SegmentRecord, ...] = ()
    removed: FileRecord | None = None
    kind: str = "auto"
    recall: float = 0.99
    schema_version: int = SCHEMA_VERSION
    metric: str = METRIC
    convention: str = CONVENTION

    @property
    def files(self) -> Iterator[FileRecord]:
        """All data files of the generation."""
        for segment in self.segments:
            yield from segment.files
        if self.removed is not None:
            yield self.removed

    def to_json(self) -> str:
        """The text of `index.json`, which carries a checksum of itself."""
        fields = asdict(self)
        return json.dumps({**fields, "sha256": _digest(fields)}, indent=2, ensure_ascii=False) + "\n"


def read_header(folder: Path) -> Header:
    """Read and check `index.json`.

    Raises:
        IndexNotFoundError: there is no index in `folder`.
        SchemaVersionError: a newer (or unknown) format.
        IndexCorruptError: the file is not what a commit wrote.
        IndexAccessError: the file cannot be read.
    """
    path = folder / HEADER_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IndexNotFoundError(
            f"{folder}: expected the folder of an index, found no {HEADER_NAME} in it; "
            "check the path, or make the index with Index.create"
        ) from None
    except OSError as error:
        raise IndexAccessError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        fields = json.loads(text)
        version = fields["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IndexCorruptError(
            f"{path}: expected the JSON object of an index, got {len(text)} bytes that are damaged or something else; "
            f"{RESTORE}"
        ) from None
    if version not in (1, SCHEMA_VERSION):
        is_newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise SchemaVersionError(
            f"{path}: expected index schema version 1 or {SCHEMA_VERSION}, got {version!r}; "
            + ("a newer salm wrote it: upgrade salm" if is_newer else "open it with the version of salm that wrote it")
            + ", or index the recordings again into another folder"
        )
    return _header(path, fields)


def _header(path: Path, fields: dict[str, Any]) -> Header:
    version, expected = fields["schema_version"], fields.pop("sha256", None)
    if expected != _digest(fields):
        raise IndexCorruptError(
            f"{path}: its contents do not have the checksum {expected} that they were written with: "
            f"damaged, or edited by hand; {RESTORE}"
        )
    try:
        if version == 1:
            _convert_schema_1(fields)
        fields["segments"] = tuple(map(_segment, fields["segments"]))
        fields["removed"] = None if fields["removed"] is None else _file(fields["removed"], "removed")
        header = Header(**fields)
        if header.kind not in KINDS or header.metric != METRIC:
            raise ValueError(f"kind {header.kind!r}, metric {header.metric!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise IndexCorruptError(f"{path}: expected the fields of schema {version}, got {error}; {RESTORE}") from None
    return header


def _convert_schema_1(fields: dict[str, Any]) -> None:
    if fields["kind"] != "flat":
        raise ValueError(f"kind {fields['kind']!r}")
    segment = {name: fields[name] for name in ("generation", "num_windows")}
    segment |= {name: fields.pop(name) for name in ("vectors", "rows")}
    fields |= {"segments": [{**segment, "lists": None}], "removed": None, "kind": "auto"}
    fields["schema_version"] = SCHEMA_VERSION


def _segment(fields: dict[str, Any]) -> SegmentRecord:
    lists = fields.pop("lists")
    return SegmentRecord(
        vectors=_file(fields.pop("vectors"), "vectors"),
        rows=_file(fields.pop("rows"), "rows"),
        lists=None if lists is None else ListsRecord(file=_file(lists.pop("file"), "lists"), **lists),
        **fields,
    )


def _file(fields: dict[str, Any], content: str) -> FileRecord:
    record = FileRecord(**fields)
    # Whatever index.json says, nothing outside the folder is opened.
    if not FILE_NAMES[content].fullmatch(record.name):
        raise ValueError(f"{record.name!r} as the name of the {content} file")
    return record


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
