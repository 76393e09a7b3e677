"""What an archive needs beside adding and searching: old formats, merging, numbers, exporting, deep checks."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from salm_index import (
    Index,
    IndexAccessError,
    IndexCorruptError,
    IndexExistsError,
    MissingDependencyError,
    ModelMismatchError,
    RowError,
    compaction,
)

DIMENSION = 16
MODEL = "test-model:1f3c"
schema1 = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("schema1.py"))))


@pytest.fixture
def without_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit leaves a segment, and removed windows stay in theirs."""
    monkeypatch.setattr(compaction, "SMALL_WINDOWS", 0)
    monkeypatch.setattr(compaction, "TAKEN_UP_RATIO", 0)


@pytest.fixture
def layered(make_index: Any, unit_vectors: Any, make_rows: Any, without_merging: None) -> Index:
    """Three segments with removed windows in two of them."""
    index = make_index(40, label="dog", content_hash="a")
    index.add(unit_vectors(20), make_rows(20, "more", label="cat"))
    index.add(unit_vectors(10), make_rows(10, "last", label="rain"))
    index.remove(["clip3.wav", "clip5.wav", "more7.wav"])
    assert (len(index.stats().segments), index.stats().num_removed) == (3, 3)
    return index


def test_an_index_of_schema_1_is_read_and_becomes_schema_2_with_the_next_commit(
    tmp_path: Path, unit_vectors: Any, make_rows: Any, contents: Any, make_index: Any
) -> None:
    vectors, rows = unit_vectors(30), make_rows(30, label="dog")
    schema1.write_schema_1(tmp_path / "old", vectors, rows, MODEL)
    expected = make_index(30, folder="new")
    expected.replace([row["path"] for row in rows], vectors, rows)
    old = Index.open(tmp_path / "old", model=MODEL)
    assert (old.generation, old.kind, len(old)) == (7, "flat", 30)
    assert contents(old) == contents(expected)
    old.verify()
    assert len(old.search(np.ones(DIMENSION), 99, where={"label": "dog"})) == 30
    more = unit_vectors(1)
    for index in (old, expected):
        index.add(more, make_rows(1, "more"))
        index.remove("clip2.wav")
    assert json.loads((old.path / "index.json").read_text())["schema_version"] == 2
    for index in (old, Index.open(old.path)):
        assert contents(index) == contents(expected)
        index.verify()


def test_an_empty_index_of_schema_1_is_read(tmp_path: Path, unit_vectors: Any, make_rows: Any) -> None:
    schema1.write_schema_1(tmp_path / "old", unit_vectors(0), [], MODEL, generation=0)
    index = Index.open(tmp_path / "old")
    assert index.search(np.ones(DIMENSION)) == []
    index.add(unit_vectors(2), make_rows(2))
    assert len(Index.open(index.path)) == 2
    index.verify()


def test_compacting_changes_the_files_only(layered: Index, contents: Any) -> None:
    before, paths = contents(layered), layered.paths()
    reader = Index.open(layered.path)
    assert layered.compact() is True
    assert (len(layered.stats().segments), layered.stats().num_removed) == (1, 0)
    for index in (layered, Index.open(layered.path), reader):
        assert (contents(index), index.paths()) == (before, paths)
    layered.verify()
    generation = layered.generation
    assert layered.compact() is False
    assert layered.generation == generation


def test_a_window_that_was_removed_can_be_added_again(layered: Index, unit_vectors: Any, make_rows: Any) -> None:
    rows = make_rows(4, content_hash="new")[3:]
    layered.add(unit_vectors(1), rows)
    assert layered.paths()["clip3.wav"] == "new"
    (hit,) = layered.search(np.ones(DIMENSION), where={"path": "clip3.wav"})
    assert hit.path == "clip3.wav"
    layered.verify()
    with pytest.raises(RowError, match="in the index already"):
        layered.add(unit_vectors(1), rows)
    layered.compact()
    layered.verify()


def test_a_damaged_list_of_removed_windows_is_found(layered: Index) -> None:
    path = layered.path / "removed-00000004.npy"
    content = path.read_bytes()
    assert len(np.load(path)) == 3
    for damaged in (content[:-8], content[:-1] + b"\1", b""):
        path.write_bytes(damaged)
        with pytest.raises(IndexCorruptError, match="removed-00000004.npy: expected.*backup"):
            Index.open(layered.path)
    path.unlink()
    with pytest.raises(IndexCorruptError, match="removed-00000004.npy: expected this file"):
        Index.open(layered.path)


@pytest.mark.parametrize("pattern", ["vectors-{}.faiss", "rows-{}.sqlite"])
@pytest.mark.parametrize("with_checksums", [True, False])
def test_segments_whose_files_were_swapped_are_found(
    layered: Index,
    unit_vectors: Any,
    make_rows: Any,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    with_checksums: bool,
) -> None:
    layered.add(unit_vectors(10), make_rows(10, "fine", label="wind"))
    first, second = (layered.path / pattern.format(number) for number in ("00000003", "00000005"))
    if not with_checksums:
        monkeypatch.setattr("salm_index.generations.CHECKSUM_AT_OPEN_BYTES", -1)
    assert first.stat().st_size == second.stat().st_size
    first.rename(layered.path / "x")
    second.rename(first)
    (layered.path / "x").rename(second)
    with pytest.raises(IndexCorruptError, match=r"0000000[35]\.\w+: .*backup"):
        Index.open(layered.path)


def test_an_index_json_cannot_point_out_of_its_folder(layered: Index) -> None:
    from salm_index.header import _digest

    path = layered.path / "index.json"
    fields = json.loads(path.read_text())
    del fields["sha256"]
    fields["segments"][0]["rows"]["name"] = "../other/rows-00000001.sqlite"
    path.write_text(json.dumps({**fields, "sha256": _digest(fields)}))
    with pytest.raises(IndexCorruptError, match="index.json.*'../other/rows-00000001.sqlite' as the name of the rows"):
        Index.open(layered.path)


def test_merging_joins_two_indexes(
    layered: Index, make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any, tmp_path: Path
) -> None:
    second = make_index(folder="second.index")
    second.add(unit_vectors(6), make_rows(6, "other", label="siren"))
    # One recording that both have.
    (place,) = [i for i, hit in enumerate(layered.search(np.ones(DIMENSION), 99)) if hit.path == "clip9.wav"]
    assert place >= 0
    second.add(unit_vectors(1), make_rows(10, content_hash="a")[9:])
    second.remove("other2.wav")
    before = contents(layered), contents(second)
    merged = Index.merge(layered.path, second.path, tmp_path / "deep" / "merged.index")
    assert (contents(layered), contents(second)) == before
    assert contents(merged) == before[1] | before[0]
    assert (len(merged), merged.model) == (len(layered) + 5, MODEL)
    assert len(merged.paths()) == len(layered.paths()) + 5
    for index in (merged, Index.open(merged.path)):
        index.verify()
    merged.add(unit_vectors(1), make_rows(1, "later"))
    merged.verify()


def test_merging_refuses_what_does_not_fit(make_index: Any, unit_vectors: Any, make_rows: Any, tmp_path: Path) -> None:
    first, second = make_index(5, folder="a", content_hash="1"), make_index(5, folder="b", content_hash="2")
    with pytest.raises(RowError, match="b: has clip0.wav with content_hash '2', .*a has it with '1'; remove it"):
        Index.merge(first.path, second.path, tmp_path / "c")
    foreign = Index.create(tmp_path / "foreign", DIMENSION, model="other:9")
    with pytest.raises(ModelMismatchError, match="foreign: expected vectors of model 'test-model:1f3c'.*'other:9'"):
        Index.merge(first.path, foreign.path, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    second.remove(list(second.paths()))
    with pytest.raises(IndexExistsError, match="index already"):
        Index.merge(first.path, second.path, first.path)
    assert len(Index.merge(first.path, second.path, tmp_path / "c")) == 5


def test_stats_count_what_is_there(layered: Index) -> None:
    stats = layered.stats()
    assert (stats.num_windows, stats.num_recordings, stats.num_removed) == (67, 67, 3)
    assert (stats.kind, stats.wanted_kind, stats.wanted_recall) == ("flat", "auto", 0.99)
    assert [(s.num_windows, s.num_removed) for s in stats.segments] == [(40, 2), (20, 1), (10, 0)]
    names = [record.name for record in layered._current.header.files]
    assert len(names) == 7
    assert stats.num_bytes == sum((layered.path / name).stat().st_size for name in names)
    assert stats.search.startswith("exact (flat)")


def test_an_export_holds_every_window_in_order(layered: Index, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    layered.export(tmp_path / "out")
    vectors, table = np.load(tmp_path / "out" / "vectors.npy"), parquet.read_table(tmp_path / "out" / "rows.parquet")
    assert vectors.shape == (67, DIMENSION) and vectors.dtype == np.float32
    assert table.schema.metadata[b"model"] == MODEL.encode()
    query = np.linspace(-1, 1, DIMENSION)
    expected = {hit.path: (hit.score, hit.start_s, hit.metadata) for hit in layered.search(query, 99)}
    rows = table.to_pylist()
    assert len(rows) == len(expected) == 67
    for vector, row in zip(vectors, rows, strict=True):
        score, start_s, metadata = expected[row["path"]]
        assert score == pytest.approx(float(vector @ query), abs=1e-6)
        assert (row["start_s"], json.loads(row["metadata"]), row["azimuth_deg"]) == (start_s, metadata, None)
    with pytest.raises(IndexExistsError, match="out: expected a new or empty folder"):
        layered.export(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.index", "out"]


def test_an_export_without_pyarrow_says_what_to_install(
    make_index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="needs pyarrow: pip install pyarrow"):
        make_index(2).export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_cannot_be_written_says_so(
    make_index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salm_index.export._pyarrow", lambda: (None, None))
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexAccessError, match="cannot be written"):
        make_index(2).export(tmp_path / "file" / "out")
