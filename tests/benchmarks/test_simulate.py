"""SALM's room responses equal pyroomacoustics' where both are right; no test asserts a time."""

import numpy as np
import pyroomacoustics as pra
import pytest

from benchmarks import simulate
from salm.geometry import foa_gains
from salm.scenes.srir import DIRECT_S

SHORT_S = 0.12


@pytest.fixture(autouse=True)
def without_high_pass(monkeypatch):
    before = pra.constants.get("rir_hpf_enable")
    pra.constants.set("rir_hpf_enable", False)
    yield
    pra.constants.set("rir_hpf_enable", before)


def test_responses_agree_in_the_common_band():
    assert simulate.band_error_db(SHORT_S) < simulate.BAR_DB


def test_both_direct_sounds_have_sn3d_gains():
    gains = foa_gains(0.6, 0.2)
    direct = round(DIRECT_S * simulate.RATE_HZ)
    ours = simulate.salm_response(SHORT_S, tail=False)[:, direct]
    start = simulate.DISTANCE_SAMPLES + pra.constants.get("frac_delay_length") // 2
    theirs = simulate.pra_response(SHORT_S, bands=False)[:, start]
    np.testing.assert_allclose(ours, gains, atol=0.02)
    np.testing.assert_allclose(theirs / theirs[0], gains, atol=0.02)


def test_every_run_is_measured_and_compared():
    rows = simulate.measure(SHORT_S, repetitions=1)
    names = [row["run"] for row in rows]
    assert "response, salm" in names and "scene, pyroomacoustics flat" in names
    assert all(row["per_s"] > 0 for row in rows)
    reference = next(row for row in rows if row["run"] == "response, pyroomacoustics flat")
    assert reference["times flat"] == 1.0
