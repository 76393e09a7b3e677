"""The bank: the same responses whatever the number of workers, and after a round trip through a file."""

import numpy as np
import pytest

from salm.errors import SceneError
from salm.scenes.srir_bank import SrirBank


@pytest.fixture(scope="module")
def bank() -> SrirBank:
    return SrirBank.simulate(4, 2, seed=7, rt60_range_s=(0.1, 0.3))


def test_a_larger_bank_starts_with_the_smaller_one(bank):
    smaller = SrirBank.simulate(2, 2, seed=7, rt60_range_s=(0.1, 0.3))
    assert (len(bank), len(smaller)) == (8, 4)
    assert np.array_equal(smaller.samples, bank.samples[:, : smaller.offsets[-1]])
    assert not np.array_equal(bank.samples[:, :400], SrirBank.simulate(1, 1, seed=8).samples[:, :400])


def test_workers_change_nothing(bank):
    calls = []
    parallel = SrirBank.simulate(
        4, 2, seed=7, rt60_range_s=(0.1, 0.3), workers=2, progress=lambda *counts: calls.append(counts)
    )
    assert parallel.samples.tobytes() == bank.samples.tobytes()
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_items_are_responses_of_their_rooms(bank):
    for index in range(len(bank)):
        srir = bank[index]
        assert srir.response.dtype == np.float32
        assert srir.response.shape == (4, bank.offsets[index + 1] - bank.offsets[index])
        assert srir.room == bank.rooms[index // 2]
        assert srir.response[0, 48] == pytest.approx(1.0, abs=0.1)
    assert bank[-1].distance_m == bank[7].distance_m
    with pytest.raises(IndexError, match="8 of a bank of 8"):
        bank[8]


def test_save_and_load(bank, tmp_path):
    bank.save(tmp_path / "bank.npz")
    loaded = SrirBank.load(tmp_path / "bank.npz")
    assert loaded.samples.tobytes() == bank.samples.tobytes()
    assert loaded.rooms == bank.rooms and loaded.sample_rate == bank.sample_rate
    assert np.array_equal(loaded.azimuth_rad, bank.azimuth_rad)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.npz"]


def test_what_is_no_bank_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "missing.npz"):
        with pytest.raises(SceneError, match=rf"{name}: not a bank"):
            SrirBank.load(tmp_path / name)
    with pytest.raises(SceneError, match="at least one room"):
        SrirBank.simulate(0, 3)
