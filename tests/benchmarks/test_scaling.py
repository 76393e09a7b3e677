"""The points of the scaling curves and their figure; no test asserts a time."""

import pytest

from benchmarks import scaling


@pytest.mark.parametrize(("what", "value"), [("clips", 2), ("length", 20), ("index", 40)])
def test_a_point_is_measured(tiny_checkpoint, what, value):
    row = scaling.measure(what, value, str(tiny_checkpoint), repetitions=1)
    assert row["seconds"] > 0
    assert row["peak_mb"] >= row["start_mb"]
    assert ("build_s" in row) == (what == "index")


def test_figure_has_a_column_for_each_kind(tmp_path):
    rows = [{"what": "clips", "value": value, "seconds": value, "start_mb": 1, "peak_mb": 2} for value in (1, 4)]
    rows += [{"what": "index", "value": 10, "seconds": 0.1, "build_s": 1.0, "start_mb": 1, "peak_mb": 2}]
    scaling.draw(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
