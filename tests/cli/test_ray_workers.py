"""`salm index --workers ray`: the index that one process makes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from salm_index import Index

from salm.cli import ray_encoding
from salm.cli.encoding import encode_jobs
from salm.cli.indexing import parse_workers, update_index
from salm.cli.jobs import Encoding, Job
from salm.errors import ConfigError, DependencyError, SalmError
from tests.cli.commands import Run, assert_mistake


@pytest.mark.parametrize("text", ["threads", "ray:0", "ray:", "ray:-1", "ray:two", ""])
def test_other_workers_are_refused(text: str, recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers: expected ray, or ray:N"):
        update_index(recordings, tmp_path / "my.index", model="none", workers=text)


def test_the_number_of_workers() -> None:
    assert (parse_workers("ray"), parse_workers("ray:12")) == (0, 12)


def test_a_missing_ray_is_named(recordings: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r'needs ray: pip install "salm\[ray\]"'):
        update_index(recordings, tmp_path / "my.index", model=str(tiny), workers="ray")


def test_a_worker_does_what_this_process_would(recordings: Path, bad_files: Path, tiny: Path) -> None:
    """What runs in an actor, without Ray around it."""
    import pickle

    import salm

    embedder = salm.load(tiny)
    jobs = [Job(str(recordings / "long.wav"), {"label": "x"}, None), Job(str(bad_files / "nan.wav"), {}, None)]
    worker = ray_encoding.Worker(str(tiny), embedder.model_id, Encoding())
    done = [pickle.loads(text) for text in worker({"job": [pickle.dumps(job) for job in jobs]})["outcome"]]
    expected = list(encode_jobs(embedder, Encoding(), jobs))
    assert done[0].rows == expected[0].rows
    assert [row["label"] for row in done[0].rows] == ["x", "x"]
    np.testing.assert_array_equal(done[0].vectors, expected[0].vectors)
    assert "nan.wav" in done[1].error == expected[1].error
    known = Job(jobs[0].path, {"label": "x"}, done[0].rows[0]["content_hash"])
    assert list(encode_jobs(embedder, Encoding(), [known])) == [(known.path, None, None, None)]
    with pytest.raises(SalmError, match="expected other:1 as on the driver"):
        ray_encoding.Worker(str(tiny), "other:1", Encoding())


@pytest.mark.slow
def test_ray_makes_the_same_index(run: Run, recordings: Path, bad_files: Path, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (recordings / "nan.wav").symlink_to(bad_files / "nan.wav")
    update_index(recordings, tmp_path / "alone.index", model=str(tiny))
    arguments = ("index", recordings, "--out", tmp_path / "ray.index", "--model", tiny, "--workers", "ray:2")
    # A process of its own: Ray leaves threads, signal handlers and settings behind.
    made = run(*arguments, "--json", "-q")
    assert made.code == 1, made
    # Ray's core remarks, past all loggers, that the workers could not be started again without their arguments.
    (error,) = (line for line in made.stderr.splitlines() if "core_worker.cc" not in line)
    assert error.startswith("error: ")
    assert "nan.wav" in error
    assert [Path(path).name for path in made.json["added"]] == ["a.flac", "b.WAV", "c.ogg", "long.wav"]
    with Index.open(tmp_path / "alone.index") as alone, Index.open(tmp_path / "ray.index") as index:
        assert index.paths() == alone.paths()
        query = np.ones(index.dimension)
        for hit, true in zip(index.search(query, 10), alone.search(query, 10), strict=True):
            # Other neighbours in a batch, another number of threads: see the embedder's bound.
            assert hit.score == pytest.approx(true.score, abs=1e-6)
            assert (hit.path, hit.start_s, hit.metadata) == (true.path, true.start_s, true.metadata)
    again = update_index(recordings, tmp_path / "ray.index", model=str(tiny))
    assert (len(again.unchanged), again.added) == (4, [])


def test_mistakes_of_workers_are_told_in_one_line(run: Run, recordings: Path, tmp_path: Path) -> None:
    result = run("index", recordings, "--out", tmp_path / "x", "--workers", "dask", "-q")
    assert_mistake(result, "--workers: expected ray", "'dask'")
