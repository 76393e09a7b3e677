"""Rooms of the data module: as asked for, and each kind in a file of its own."""

import numpy as np
import pytest

from salm.data.datamodule import SceneDataModule


@pytest.fixture
def rooms(dry_folder, tmp_path):
    def made(**asked):
        data = SceneDataModule(
            manifest=str(dry_folder / "manifest.csv"), cache=str(tmp_path), num_rooms=2, rt60_s=(0.2, 0.3), **asked
        )
        data.setup()
        assert not np.array_equal(data.training.rooms.azimuth_rad, data.validation.rooms.azimuth_rad)
        return data.training.rooms

    return made


def test_receivers_and_walls_are_those_asked_for(rooms, tmp_path):
    centre, anywhere, alike = rooms(), rooms(receiver="anywhere"), rooms(wall_spread=0.0)
    files = {path.name for path in tmp_path.glob("rooms-2-0-*.npz")}
    assert files == {f"rooms-2-0-0.2-0.3-24000{kind}.npz" for kind in ("", "-anywhere", "-walls0")}
    assert centre.rooms == anywhere.rooms  # the same rooms, heard from elsewhere
    assert not np.array_equal(centre.distance_m, anywhere.distance_m)
    assert np.ptp(np.array(centre.rooms[0].absorption)[:, 0]) > 0.01
    assert np.ptp(np.array(alike.rooms[0].absorption)[:, 0]) == 0.0
    again = rooms(receiver="anywhere")
    np.testing.assert_array_equal(again.distance_m, anywhere.distance_m)
