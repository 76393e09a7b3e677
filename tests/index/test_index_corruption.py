"""A damaged index says which file is damaged and what to do; it never answers wrongly."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from salm_index import (
    Index,
    IndexCorruptError,
    IndexNotFoundError,
    SalmIndexError,
    SchemaVersionError,
    files,
    generations,
)
from salm_index.header import read_header

DIMENSION = 16
FILES = ["index.json", "vectors-00000001.faiss", "rows-00000001.sqlite"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(bytes(content))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


DAMAGES = [truncate, empty, fill_with_noise, fill_with_zeros, flip_one_bit, append]


@pytest.fixture
def index(make_index: Callable[..., Index]) -> Index:
    return make_index(50, label="dog", azimuth_deg=45.0)


@pytest.fixture
def without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file were too large to be checksummed on opening."""
    monkeypatch.setattr(generations, "CHECKSUM_AT_OPEN_BYTES", -1)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_on_opening(index: Index, name: str, damage: Callable[[Path], None]) -> None:
    damage(index.path / name)
    with pytest.raises(IndexCorruptError, match=f"{name}.*restore the index folder from a backup"):
        Index.open(index.path)
    with pytest.raises(IndexCorruptError, match=name):
        index.verify()


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_a_large_file_is_found_by_verify(
    index: Index, without_checksums: None, name: str, damage: Callable[[Path], None]
) -> None:
    damage(index.path / name)
    if damage is not flip_one_bit:
        with pytest.raises(IndexCorruptError, match=f"{name}.*backup"):
            Index.open(index.path)
    with pytest.raises(IndexCorruptError, match=f"{name}.*backup"):
        index.verify()


def means_the_same(content: bytes, original: bytes) -> bool:
    """Whether only white space differs."""
    try:
        return bool(json.loads(content) == json.loads(original))
    except ValueError:
        return False


def test_a_flipped_byte_anywhere_raises_no_foreign_error(index: Index, without_checksums: None) -> None:
    rng = np.random.default_rng(1)
    for name in FILES:
        original = (index.path / name).read_bytes()
        # The headers of the formats are where a reader can be led astray.
        places = [*range(0, 120, 3), *rng.integers(0, len(original), 40)]
        for place in places:
            content = bytearray(original)
            content[place] ^= int(rng.integers(1, 256))
            (index.path / name).write_bytes(bytes(content))
            if name == "index.json" and means_the_same(content, original):
                continue
            with pytest.raises(SalmIndexError), Index.open(index.path) as opened:
                opened.search(np.ones(DIMENSION), k=50, where={"label": "dog"})
                opened.verify()
        (index.path / name).write_bytes(original)
    Index.open(index.path).verify()


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_named(index: Index, name: str) -> None:
    (index.path / name).unlink()
    with pytest.raises(IndexCorruptError, match=f"{name}: expected this file"):
        Index.open(index.path)


def test_without_index_json_there_is_no_index(index: Index) -> None:
    (index.path / "index.json").unlink()
    with pytest.raises(IndexNotFoundError, match="no index.json"):
        Index.open(index.path)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_of_another_index_is_found(index: Index, make_index: Any, name: str) -> None:
    other = make_index(50, folder="other.index", label="cat", azimuth_deg=-45.0)
    shutil.copy(other.path / name, index.path / name)
    with pytest.raises(IndexCorruptError, match=name):
        Index.open(index.path)


def test_swapped_files_are_found(index: Index, without_checksums: None) -> None:
    vectors, rows = (index.path / name for name in FILES[1:])
    vectors.rename(index.path / "x")
    rows.rename(vectors)
    (index.path / "x").rename(rows)
    with pytest.raises(IndexCorruptError, match="expected .* bytes"):
        Index.open(index.path)


def rewrite_header(index: Index, **fields: Any) -> None:
    """An `index.json` that is right about the files as they are now."""
    header = read_header(index.path)
    segments = tuple(
        replace(
            segment,
            vectors=files.record(index.path / segment.vectors.name),
            rows=files.record(index.path / segment.rows.name),
        )
        for segment in header.segments
    )
    header = replace(header, segments=segments, **fields)
    (index.path / "index.json").write_text(header.to_json(), encoding="utf-8")


def test_missing_rows_are_found_even_with_right_checksums(index: Index) -> None:
    with sqlite3.connect(index.path / FILES[2]) as connection:
        connection.execute("DELETE FROM windows WHERE id = 7")
    connection.close()
    rewrite_header(index)
    with pytest.raises(IndexCorruptError, match="expected 50 vectors and rows, got 50 .* and 49"):
        Index.open(index.path)


def test_rows_of_other_vectors_are_found_by_verify_and_never_answered_from(index: Index) -> None:
    with sqlite3.connect(index.path / FILES[2]) as connection:
        connection.execute("UPDATE windows SET id = 1000 WHERE id = 7")
    connection.close()
    rewrite_header(index)
    with pytest.raises(IndexCorruptError, match="ids"):
        index.verify()
    opened = Index.open(index.path)
    for where in (None, {"label": "dog"}):
        with pytest.raises(IndexCorruptError, match="has no rows for 1 vectors|no vectors for 1 of them"):
            opened.search(np.ones(DIMENSION), k=50, where=where)


def test_rows_of_an_old_generation_are_found(index: Index, make_rows: Any, unit_vectors: Any) -> None:
    old = (index.path / FILES[2]).read_bytes()
    index.replace("clip0.wav", unit_vectors(1), make_rows(1, label="cat", azimuth_deg=45.0))
    (index.path / "rows-00000002.sqlite").write_bytes(old)
    rewrite_header(index)
    with pytest.raises(IndexCorruptError, match="expected the rows of generation 2, got those of generation 1"):
        Index.open(index.path)


def test_vectors_of_another_dimension_are_found(index: Index, without_checksums: None) -> None:
    rewrite_header(index, dimension=DIMENSION + 1)
    with pytest.raises(IndexCorruptError, match=f"dimension {DIMENSION + 1}, got .* of dimension {DIMENSION}"):
        Index.open(index.path)


def test_another_kind_of_faiss_index_is_refused(index: Index, without_checksums: None) -> None:
    import faiss

    faiss.write_index(faiss.IndexFlatL2(DIMENSION), str(index.path / FILES[1]))
    rewrite_header(index)
    with pytest.raises(IndexCorruptError, match="expected an IndexIDMap over an IndexFlatIP"):
        Index.open(index.path)


def test_another_schema_is_not_guessed_at(index: Index) -> None:
    fields = json.loads((index.path / "index.json").read_text())
    for version, remedy in ((3, "newer.*upgrade salm"), (0, "version of salm that wrote it"), ("2", "version of salm")):
        (index.path / "index.json").write_text(json.dumps({**fields, "schema_version": version, "unknown": []}))
        message = f"index.json: expected index schema version 1 or 2, got {version!r}; .*{remedy}.*index the recordings"
        with pytest.raises(SchemaVersionError, match=message):
            Index.open(index.path)


@pytest.mark.parametrize("field", ["model", "dimension", "num_windows", "generation", "segments", "sha256"])
def test_an_edited_header_is_found(index: Index, field: str) -> None:
    fields = json.loads((index.path / "index.json").read_text())
    for change in ({**fields, field: 3}, {key: value for key, value in fields.items() if key != field}):
        (index.path / "index.json").write_text(json.dumps(change))
        with pytest.raises(IndexCorruptError, match="index.json.*(edited by hand|expected the fields)"):
            Index.open(index.path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"a": 1}', "{", '"x"', "[" * 5000, '{"schema_version": 1}'])
def test_other_json_is_no_header(index: Index, text: str) -> None:
    (index.path / "index.json").write_text(text)
    with pytest.raises(IndexCorruptError, match="index.json"):
        Index.open(index.path)


@pytest.mark.parametrize("name", FILES[1:])
def test_an_open_index_does_not_commit_damage(index: Index, name: str, make_rows: Any, unit_vectors: Any) -> None:
    flip_one_bit(index.path / name)
    with pytest.raises(IndexCorruptError, match=name):
        index.add(unit_vectors(1), make_rows(1, "new"))
    assert read_header(index.path).generation == 1
