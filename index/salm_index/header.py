"""`index.json`: the one small file that says which generation of an index is the committed one, and what it holds.

A generation is a pair of files that never change once `index.json` names them. Replacing `index.json` is the commit.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from salm_index.errors import IndexAccessError, IndexCorruptError, IndexNotFoundError, SchemaVersionError

HEADER_NAME = "index.json"
SCHEMA_VERSION = 1
METRIC = "inner_product"
KIND = "flat"
CONVENTION = (
    "azimuth_deg counter-clockwise from the front in (-180, 180], +90 = left; elevation_deg up from the horizon"
)
RESTORE = "restore the index folder from a backup, or delete it and index the recordings again"


@dataclass(frozen=True)
class FileRecord:
    """One data file of a generation, as it must be found on disk."""

    name: str
    num_bytes: int
    sha256: str


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
        vectors: the FAISS file of this generation.
        rows: the SQLite file of this generation.
    """

    model: str
    dimension: int
    generation: int
    num_windows: int
    num_recordings: int
    next_id: int
    max_norm: float
    vectors: FileRecord
    rows: FileRecord
    schema_version: int = SCHEMA_VERSION
    kind: str = KIND
    metric: str = METRIC
    convention: str = CONVENTION

    def to_json(self) -> str:
        """The text of `index.json`, which carries a checksum of itself."""
        fields = asdict(self)
        return json.dumps({**fields, "sha256": _digest(fields)}, indent=2, ensure_ascii=False) + "\n"


def vectors_name(generation: int) -> str:
    """File name of a generation's vectors."""
    return f"vectors-{generation:08d}.faiss"


def rows_name(generation: int) -> str:
    """File name of a generation's rows."""
    return f"rows-{generation:08d}.sqlite"


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
    if version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path}: expected index schema version {SCHEMA_VERSION}, got {version!r}; "
            "open it with the version of salm that wrote it, or upgrade salm"
        )
    return _header(path, fields)


def _header(path: Path, fields: dict[str, Any]) -> Header:
    expected = fields.pop("sha256", None)
    if expected != _digest(fields):
        raise IndexCorruptError(
            f"{path}: its contents do not have the checksum {expected} that they were written with: "
            f"damaged, or edited by hand; {RESTORE}"
        )
    try:
        vectors, rows = FileRecord(**fields.pop("vectors")), FileRecord(**fields.pop("rows"))
        header = Header(**fields, vectors=vectors, rows=rows)
        names = (vectors_name(header.generation), rows_name(header.generation))
    except (KeyError, TypeError, ValueError) as error:
        raise IndexCorruptError(f"{path}: expected the fields of schema {SCHEMA_VERSION}: {error}; {RESTORE}") from None
    if (vectors.name, rows.name) != names or header.kind != KIND or header.metric != METRIC:
        raise IndexCorruptError(
            f"{path}: expected files {names}, kind {KIND!r} and metric {METRIC!r}, got "
            f"{(vectors.name, rows.name)}, {header.kind!r} and {header.metric!r}; {RESTORE}"
        )
    return header


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
