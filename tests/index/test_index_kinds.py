"""Kinds: where lists come from and that they find what they must; exact filters; which segments are merged."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from salm_index import Index, IndexCorruptError, QueryError, compaction, generations, lists, tuning
from salm_index.compaction import Group, Size, plan_commit, plan_compaction
from salm_index.generations import load

DIMENSION = 32
COUNT = 4000
K = 10


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors around 50 centres, as recordings of a few kinds of sounds give them."""
    centres = np.random.default_rng(0).standard_normal((50, DIMENSION))
    vectors = centres[rng.integers(0, 50, count)] + 0.5 * rng.standard_normal((count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rows_of(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {"path": f"f{i // 4}.wav", "start_s": i % 4, "end_s": i % 4 + 1, "azimuth_deg": (i * 7) % 360 - 179, "n": i}
        for i in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(np.random.default_rng(1), COUNT)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(np.random.default_rng(2), 100)


@pytest.fixture(scope="module")
def ivf_folder(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    index = Index.create(tmp_path_factory.mktemp("kinds") / "ivf.index", DIMENSION, model="m:1", kind="ivf")
    index.add(vectors, rows_of(0, COUNT))
    return index.path


@pytest.fixture
def ivf(tmp_path: Path, ivf_folder: Path) -> Index:
    return Index.open(shutil.copytree(ivf_folder, tmp_path / "ivf.index"))


def true_numbers(vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[int]:
    numbers = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    scores = vectors[numbers].astype(np.float64) @ query.astype(np.float64)
    return [int(number) for number in numbers[np.argsort(-scores, kind="stable")[:k]]]


def numbers_of(hits: list[Any]) -> list[int]:
    return [hit.metadata["n"] for hit in hits]


def recall(found: list[list[int]], truth: list[list[int]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def test_lists_reach_the_recall_that_was_asked_for_and_read_a_part_only(
    ivf: Index, vectors: np.ndarray, queries: np.ndarray
) -> None:
    (segment,) = ivf.stats().segments
    assert ivf.kind == segment.kind == "ivf"
    assert segment.num_lists and segment.num_probes and segment.measured_recall
    assert segment.measured_recall >= 0.99
    assert segment.num_probes <= segment.num_lists / 2
    for k in (K, 50):
        truth = [true_numbers(vectors, query, k) for query in queries]
        assert recall([numbers_of(hits) for hits in ivf.search_many(queries, k)], truth) >= 0.985


def test_a_lower_recall_reads_fewer_lists(ivf: Index) -> None:
    probes = {}
    for target in (0.6, 0.99, 1.0):
        assert ivf.compact(recall=target) is True
        assert ivf.compact(recall=target) is False
        (segment,) = ivf.stats().segments
        assert ivf.stats().wanted_recall == target
        probes[target] = segment.num_probes or 0
    assert 0 < probes[0.6] < probes[0.99] <= probes[1.0]


@pytest.mark.parametrize("target", [0.8, 0.9, 0.99])
def test_no_search_that_reads_fewer_lists_would_do(ivf: Index, target: float) -> None:
    """What the tuning finds in a few searches is what trying every number of lists would have found."""
    segment = ivf._current.parts[0].segment
    assert segment.lists is not None
    made = segment.lists._index
    places = np.arange(0, COUNT, COUNT // 128)[:128]
    tuned = tuning.tune(made, segment.vectors, places, target)
    trial = tuning._Trial(made, segment.vectors, places)
    enough = (n for n in range(1, made.nlist + 1) if trial.reaches(target, n, tuned.candidates_per_hit))
    assert tuned.num_probes == next(enough)
    assert 1 < tuned.num_probes < made.nlist


def test_scores_are_those_of_an_exact_search(ivf: Index, queries: np.ndarray) -> None:
    for query in queries[:10]:
        exact = {hit.metadata["n"]: hit.score for hit in ivf.search(query, 50, exact=True)}
        found = {hit.metadata["n"]: hit.score for hit in ivf.search(query, K)}
        assert found.items() <= exact.items()


def test_exact_search_and_many_hits_agree_with_numpy(ivf: Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    for query in queries[:5]:
        assert numbers_of(ivf.search(query, K, exact=True)) == true_numbers(vectors, query, K)
        # Recall was not measured for so many hits: everything is read.
        assert numbers_of(ivf.search(query, 300)) == true_numbers(vectors, query, 300)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_filters_are_exact_at_any_selectivity(
    ivf: Index, vectors: np.ndarray, queries: np.ndarray, share: float
) -> None:
    limit = int(COUNT * share) - 1
    allowed = np.arange(COUNT) <= limit
    ivf.remove(["f0.wav", "f3.wav", f"f{COUNT // 4 - 1}.wav"])
    allowed[[0, 1, 2, 3, 12, 13, 14, 15, -4, -3, -2, -1]] = False
    where = {"n": (None, limit)}
    for query in queries[:5]:
        hits = ivf.search(query, K, where=where)
        assert numbers_of(hits) == true_numbers(vectors, query, K, allowed)
        assert len(hits) == min(K, allowed.sum())


def test_a_filter_against_the_query_keeps_its_recall(ivf: Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    # Only the half of the windows that is least like the query: none of the nearest lists holds a true neighbour.
    index = Index.create(ivf.path.with_name("against"), DIMENSION, model="m:1", kind="ivf")
    far = vectors @ queries[0] < np.median(vectors @ queries[0])
    index.add(vectors, [row | {"far": bool(far[i])} for i, row in enumerate(rows_of(0, COUNT))])
    hits = index.search(queries[0], K, where={"far": True})
    assert numbers_of(hits) == true_numbers(vectors, queries[0], K, far)


def test_removed_windows_never_come_back(ivf: Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    gone = sorted({hit.path for query in queries[:20] for hit in ivf.search(query, 5)})
    num_removed = ivf.remove(gone)
    assert ivf.stats().num_removed == num_removed > 20
    assert (len(ivf), len(ivf.paths())) == (COUNT - num_removed, COUNT // 4 - len(gone))
    kept = np.array([f"f{i // 4}.wav" not in gone for i in range(COUNT)])
    truth = [true_numbers(vectors, query, K, kept) for query in queries]
    for index in (ivf, Index.open(ivf.path)):
        found = [numbers_of(hits) for hits in index.search_many(queries, K)]
        assert recall(found, truth) >= 0.98
        assert {len(numbers) for numbers in found} == {K}
        index.verify()
    assert ivf.compact() is True
    assert ivf.stats().num_removed == 0
    assert recall([numbers_of(hits) for hits in ivf.search_many(queries, K)], truth) >= 0.985
    ivf.verify()
    assert ivf.compact() is False


def test_too_few_in_the_lists_that_are_read_means_reading_all(ivf: Index, queries: np.ndarray) -> None:
    # 8 windows are left, in as many lists: the probes alone do not find all of them.
    ivf.remove([f"f{i}.wav" for i in range(COUNT // 4) if i not in (100, 900)])
    ivf.compact(kind="ivf")
    assert len(ivf.search(queries[0], 20)) == 8


def test_a_nearly_emptied_segment_still_gives_k_hits(
    ivf: Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "SMALL_WINDOWS", 0)
    monkeypatch.setattr(compaction, "REMOVED_SHARE", 1.0)
    ivf.remove([f"f{i}.wav" for i in range(COUNT // 4) if i % 100])
    assert (ivf.kind, len(ivf)) == ("ivf", 40)
    assert {len(hits) for hits in ivf.search_many(queries, 30)} == {30}


def test_auto_is_flat_first_and_ivf_beyond_the_limit(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "FLAT_LIMIT", 2500)
    index = Index.create(tmp_path / "x", DIMENSION, model="m:1")
    index.add(vectors[:2000], rows_of(0, 2000))
    assert (index.kind, index.stats().search[:5]) == ("flat", "exact")
    index.add(vectors[2000:], rows_of(2000, 2000))
    assert index.kind == Index.open(index.path).kind == "ivf"
    assert "recall" in index.stats().search
    assert index.compact(kind="flat") is True
    assert index.kind == "flat"
    assert index.compact(kind="auto") is True
    assert index.kind == "ivf"


def test_auto_goes_without_lists_where_they_would_be_read_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "FLAT_LIMIT", 1500)
    noise = np.random.default_rng(0).standard_normal((2000, DIMENSION)).astype(np.float32)
    index = Index.create(tmp_path / "x", DIMENSION, model="m:1", recall=1.0)
    index.add(noise, rows_of(0, 2000))
    assert index.kind == "flat"
    assert not list(index.path.glob("lists-*"))


def test_the_forced_kind_of_a_small_index_is_flat(tmp_path: Path, vectors: np.ndarray) -> None:
    index = Index.create(tmp_path / "x", DIMENSION, model="m:1", kind="ivf")
    index.add(vectors[:900], rows_of(0, 900))
    assert (index.kind, index.stats().wanted_kind) == ("flat", "ivf")


def test_lists_of_other_vectors_are_found(ivf: Index, vectors: np.ndarray) -> None:
    other = Index.create(ivf.path.with_name("other"), DIMENSION, model="m:1", kind="ivf")
    other.add(vectors[::-1], rows_of(0, COUNT))
    name = "lists-00000001.faiss"
    content = (ivf.path / name).read_bytes()
    for damaged in ((other.path / name).read_bytes(), content[: len(content) // 2], content[:-3] + b"\0\1\2"):
        (ivf.path / name).write_bytes(damaged)
        with pytest.raises(IndexCorruptError, match=f"{name}.*restore the index folder from a backup"):
            Index.open(ivf.path)
    (ivf.path / name).unlink()
    with pytest.raises(IndexCorruptError, match=f"{name}: expected this file"):
        Index.open(ivf.path)


def test_damaged_lists_of_a_large_file_are_never_answered_from(ivf: Index, queries: np.ndarray) -> None:
    import faiss

    # All ids beyond the vectors, as a flipped bit leaves one: lists of that size are not checksummed on opening.
    path = ivf.path / "lists-00000001.faiss"
    damaged = faiss.read_index(str(path))
    inverted = damaged.invlists
    for number in range(damaged.nlist):
        faiss.rev_swig_ptr(inverted.get_ids(number), inverted.list_size(number))[:] += 2**40
    faiss.write_index(damaged, str(path))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(generations, "CHECKSUM_AT_OPEN_BYTES", -1)
        opened = Index.open(ivf.path)
    with pytest.raises(IndexCorruptError, match=f"{path.name}: its lists hold places.*backup"):
        opened.search(queries[0])
    assert len(opened.search(queries[0], exact=True)) == K
    with pytest.raises(IndexCorruptError, match=path.name):
        opened.verify()


@pytest.mark.parametrize(("kind", "recall"), [("hnsw", 0.9), (None, 0.9), ("ivf", 0), ("ivf", 1.5), ("ivf", True)])
def test_kinds_and_recalls_that_mean_nothing_are_refused(tmp_path: Path, kind: Any, recall: Any) -> None:
    with pytest.raises(QueryError, match="(kind|recall): expected"):
        Index.create(tmp_path / "x", DIMENSION, model="m:1", kind=kind, recall=recall)
    assert not (tmp_path / "x").exists()


def test_small_commits_do_not_rewrite_a_large_segment(ivf: Index, vectors: np.ndarray) -> None:
    first = {path.name: path.stat().st_ino for path in ivf.path.glob("*-00000001.*")}
    assert len(first) == 3
    for number in range(5):
        ivf.add(vectors[:40] + np.float32(number + 1), rows_of(COUNT + 40 * number, 40))
        ivf.remove(f"f{number}.wav")
    assert {name: (ivf.path / name).stat().st_ino for name in first} == first
    assert len(ivf.stats().segments) == 2
    assert len(ivf) == len(Index.open(ivf.path)) == COUNT + 200 - 20
    load(ivf.path, full=True).close()


def test_segments_stay_few_and_windows_are_copied_seldom() -> None:
    sizes: list[Size] = []
    copied = 0
    rng = np.random.default_rng(0)
    for _ in range(2000):
        num_added = int(rng.integers(1, 3000))
        groups = plan_commit(sizes, num_added)
        merged = [sum(sizes[place].num_kept for place in group.places) for group in groups]
        copied += sum(num for num, group in zip(merged, groups, strict=True) if group.rewrite)
        merged[-1] += num_added
        sizes = [Size(num, 0) for num in merged]
        assert list(itertools.chain(*(group.places for group in groups))) == sorted(
            {p for g in groups for p in g.places}
        )
        assert len(sizes) <= 14
    total = sum(size.num_kept for size in sizes)
    assert total > 2_000_000
    assert copied < 12 * total
    assert max(size.num_kept for size in sizes) <= compaction.LARGE_WINDOWS


@pytest.mark.parametrize(
    ("sizes", "num_added", "expected"),
    [
        ([], 5, [Group((), True)]),
        ([], 0, []),
        ([Size(10, 0)], 5, [Group((0,), True)]),
        ([Size(5000, 0)], 5, [Group((0,), False), Group((), True)]),
        ([Size(5000, 0), Size(900, 0), Size(500, 0)], 5, [Group((0,), False), Group((1, 2), True)]),
        ([Size(5000, 0), Size(900, 0)], 3000, [Group((0, 1), True)]),
        ([Size(5000, 100), Size(900, 3)], 0, [Group((0,), False), Group((1,), True)]),
        ([Size(5000, 2000), Size(900, 0)], 0, [Group((0,), True), Group((1,), False)]),
        ([Size(0, 5000), Size(1500, 0)], 0, [Group((1,), False)]),
        ([Size(2**20, 0)], 2**20, [Group((0,), False), Group((), True)]),
    ],
)
def test_what_a_commit_writes_anew(sizes: list[Size], num_added: int, expected: list[Group]) -> None:
    assert plan_commit(sizes, num_added) == expected


def test_what_compacting_writes_anew() -> None:
    half = compaction.LARGE_WINDOWS // 2
    assert plan_compaction([], []) == []
    assert plan_compaction([Size(7, 0)], [False]) == [Group((0,), False)]
    assert plan_compaction([Size(7, 1)], [False]) == [Group((0,), True)]
    assert plan_compaction([Size(7, 0)], [True]) == [Group((0,), True)]
    sizes = [Size(half, 0), Size(0, 9), Size(half, 0), Size(half, 0), Size(3, 0)]
    assert plan_compaction(sizes, [False] * 5) == [Group((0, 2), True), Group((3, 4), True)]


def test_many_segments_answer_like_one(
    tmp_path: Path, vectors: np.ndarray, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "SMALL_WINDOWS", 0)
    monkeypatch.setattr(compaction, "TAKEN_UP_RATIO", 0)
    once = Index.create(tmp_path / "once", DIMENSION, model="m:1")
    often = Index.create(tmp_path / "often", DIMENSION, model="m:1")
    once.add(vectors[:600], rows_of(0, 600))
    for start in range(0, 600, 100):
        often.add(vectors[start : start + 100], rows_of(start, 100))
    for index in (once, often):
        index.remove(["f3.wav", "f77.wav"])
        index.replace("f30.wav", vectors[700:702], rows_of(120, 2))
    assert [len(index.stats().segments) for index in (once, often)] == [2, 7]
    assert often.stats().num_removed == 12
    checks: list[Callable[[Index], Any]] = [
        lambda index: index.search_many(queries, 20),
        lambda index: index.search_many(queries, 20, where={"azimuth_deg": (150, -150)}),
        lambda index: index.search_many(queries[:3], 1000),
        lambda index: index.paths(),
        lambda index: len(index),
    ]
    reopened = Index.open(often.path)
    for check in checks:
        assert check(often) == check(once) == check(reopened)
    often.verify()
    assert often.compact() is True
    assert len(often.stats().segments) == 1
    for check in checks:
        assert check(often) == check(once)
    often.verify()
