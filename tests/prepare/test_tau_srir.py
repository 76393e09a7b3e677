"""The TAU-SRIR DB's layout -> a bank: true directions, distances and rooms; whatever differs is refused."""

import sys

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from salm.errors import DependencyError, ManifestError, SceneError
from salm.geometry import angle_between, foa_gains, unit_vector
from salm.prepare.tau_srir import UNKNOWN_SIZE_M, prepare_tau_srir
from salm.scenes.srir import DIRECT_S
from salm.scenes.srir_bank import SrirBank
from tests.prepare.layouts import RATE, TAPS, TauFolder, write_rirs


@pytest.fixture
def database(tmp_path) -> TauFolder:
    return TauFolder(tmp_path / "TAU-SRIR_DB")


def test_every_response_has_its_direction(database):
    bank, report = prepare_tau_srir(database.write(), dtype="float32")
    expected = np.concatenate([cell for rows in database.directions.values() for row in rows for cell in row])
    assert len(bank) == len(expected) == 42
    np.testing.assert_allclose(unit_vector(bank.azimuth_rad, bank.elevation_rad), expected, atol=1e-6)
    direct = round(DIRECT_S * RATE)
    for number in range(len(bank)):
        srir = bank[number]
        assert srir.response.shape == (4, TAPS)
        gains = foa_gains(srir.azimuth_rad, srir.elevation_rad)
        np.testing.assert_allclose(srir.response[:, direct], -gains, atol=1e-5)  # the stored -0.25, scaled to energy 1
        assert not srir.response[:, :direct].any()
        assert srir.response[:, direct + 61 :].any()
    assert (report.listed, report.kept, report.missing, report.unusable) == (42, 42, [], [])


def test_rooms_distances_and_reverberation(database):
    bank, report = prepare_tau_srir(database.write())
    assert bank.samples.dtype == np.float16 and bank.sample_rate == RATE
    np.testing.assert_array_equal(bank.room_index, [0] * 32 + [1] * 10)
    assert bank.rooms[0].dimensions_m == (26.0, 16.0, 9.0) and bank.rooms[1].dimensions_m == UNKNOWN_SIZE_M
    radii = np.repeat([2.0, 4.0], [24, 8])
    np.testing.assert_allclose(bank.distance_m[:32] * np.cos(bank.elevation_rad[:32]), radii, rtol=1e-6)
    along = np.hypot(np.linspace(-2, 2, 5), np.hypot(3.0, 0.5))
    np.testing.assert_allclose(bank.distance_m[32:37], along, rtol=1e-6)
    assert np.median(bank.rt60_s) == pytest.approx(0.1, rel=0.2)
    assert any("tb103: measinfo.mat gives no three dimensions" in note for note in report.notes)
    assert any("gym: 32 responses, RT60 0.1" in note and "within 0.0 degrees" in note for note in report.notes)


def test_the_bank_is_a_bank(database, tmp_path):
    bank, _ = prepare_tau_srir(database.write())
    bank.save(tmp_path / "bank.npz")
    again = SrirBank.load(tmp_path / "bank.npz")
    np.testing.assert_array_equal(again.samples, bank.samples)
    assert again.rooms == bank.rooms


def test_chosen_rooms_and_positions(database):
    folder = database.write()
    seen = []
    bank, report = prepare_tau_srir(folder, rooms=["gym"], every=5, progress=lambda *state: seen.append(state))
    assert len(bank) == 3 + 3 + 2 and len(bank.rooms) == 1
    first = database.directions["gym"][0][0][::5]
    np.testing.assert_allclose(unit_vector(bank.azimuth_rad, bank.elevation_rad)[:3], first, atol=1e-6)
    assert report.listed == 8
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(SceneError, match=r"rooms out of gym, tb103.*got bathroom"):
        prepare_tau_srir(folder, rooms=["bathroom"])


def test_missing_rooms_and_broken_responses_are_counted(database):
    database.rirs["gym"][0][1][:, :, 3] = 0.0
    database.rirs["gym"][1][0][700, 2, 5] = np.nan
    del database.files["tb103"]
    bank, report = prepare_tau_srir(database.write())
    assert (report.listed, report.kept, report.num_missing, report.num_unusable) == (42, 30, 10, 2)
    assert len(bank) == 30
    assert [problem.entry for problem in report.unusable] == [
        "room gym trajectory 1 height 2 position 4", "room gym trajectory 2 height 1 position 6",
    ]  # fmt: skip
    assert "silent" in report.unusable[0].reason and "not finite" in report.unusable[1].reason
    assert "rirs_XX_tb103.mat" in report.missing[0].reason


def test_a_path_that_crosses_the_microphone_has_estimated_distances(database):
    path = unit_vector(np.linspace(-0.5, 3.5, 5), 0.0)  # x changes its sign
    database.directions["tb103"][0][0] = path
    database.rirs["tb103"][0][0] = np.zeros((TAPS, 4, 5))
    database.rirs["tb103"][0][0][200] = foa_gains(np.linspace(-0.5, 3.5, 5), 0.0).T
    bank, report = prepare_tau_srir(database.write(), rooms=["tb103"])
    np.testing.assert_allclose(bank.distance_m[:5], 3.0)
    assert any("5 distances are those of the path" in note for note in report.notes)


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 1, 3, 2), (0, 3, 2, 1)])
def test_another_channel_order_is_refused(database, order):
    database.rirs["gym"] = [[cell[:, list(order)] for cell in row] for row in database.rirs["gym"]]
    with pytest.raises(SceneError, match=r"rirs_02_gym\.mat: room gym: .*median error \d+ degrees.*W, Y, Z, X"):
        prepare_tau_srir(database.write())


def test_directions_of_other_positions_are_refused(database):
    database.rirs["gym"] = [[np.roll(cell, 4, axis=2) for cell in row] for row in database.rirs["gym"]]
    with pytest.raises(SceneError, match="come from elsewhere"):
        prepare_tau_srir(database.write())


def test_responses_without_direction_are_refused(database):
    for row in database.rirs["gym"]:
        for cell in row:
            cell[:, 1:] = 0.0
    with pytest.raises(SceneError, match="median error 180 degrees"):
        prepare_tau_srir(database.write())


def change_rate(database: TauFolder) -> None:
    database.fs = np.array([24000.0, 48000.0])


def change_kind(database: TauFolder) -> None:
    database.kinds["gym"] = "spiral"


def change_distances(database: TauFolder) -> None:
    database.distances["gym"] = np.array([[2.0, 0.0]])


def change_number_of_distances(database: TauFolder) -> None:
    database.distances["gym"] = np.array([[2.0, 3.0, 4.0]])


def change_lengths(database: TauFolder) -> None:
    database.directions["gym"][0][0] = 2 * database.directions["gym"][0][0]


def change_to_angles(database: TauFolder) -> None:
    database.directions["gym"][0][0] = database.directions["gym"][0][0][:, :2]


def drop_a_response(database: TauFolder) -> None:
    database.rirs["gym"][0][1] = database.rirs["gym"][0][1][:, :, 1:]


def drop_a_trajectory(database: TauFolder) -> None:
    database.rirs["gym"][0][1] = np.zeros((0, 4, 0))


def drop_a_height(database: TauFolder) -> None:
    database.rirs["gym"] = [row[:1] for row in database.rirs["gym"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_rate, r"rirdata\.mat: rirdata\.fs is .*expected one sampling rate"),
        (change_kind, r"measinfo\.mat: room gym: expected a circular or linear trajectoryType.*'spiral'"),
        (change_distances, r"measinfo\.mat: room gym: expected distances in metres, got \[2\.0, 0\.0\]"),
        (change_number_of_distances, r"distances for 2 trajectory groups, got 'circular' and 3 numbers"),
        (change_lengths, r"rirdata\.mat: room gym: expected unit vectors in doa_xyz, got lengths from 2 to 2"),
        (change_to_angles, r"room gym: doa_xyz is float64 \(12, 2\), expected numbers \(positions, 3\)"),
        (drop_a_response, r"rirs_02_gym\.mat: rirs\(1,2\)\.foa: expected \(samples, 4, 12\), got \(2400, 4, 11\)"),
        (drop_a_trajectory, r"rirs\(1,2\)\.foa: expected \(samples, 4, 12\), got nothing"),
        (drop_a_height, r"rirs_02_gym\.mat: rirs is \(2, 1\), expected \(2, 2\)"),
    ],
)
def test_what_differs_is_refused_by_name(database, change, message):
    change(database)
    with pytest.raises(SceneError, match=message):
        prepare_tau_srir(database.write())


def test_other_files_are_refused(database, tmp_path):
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        prepare_tau_srir(tmp_path / "nowhere")
    folder = database.write()
    (folder / "rirs_02_gym.mat").write_text("no HDF5")
    with pytest.raises(SceneError, match=r"rirs_02_gym\.mat: not a readable MATLAB 7\.3 \(HDF5\) file"):
        prepare_tau_srir(folder)
    with h5py.File(folder / "rirs_02_gym.mat", "w") as file:
        file["rirs/foa"] = np.zeros((12, 4, TAPS))
    with pytest.raises(SceneError, match="expected a structure array rirs with a field foa"):
        prepare_tau_srir(folder)
    write_rirs(folder / "rirs_03_gym.mat", database.rirs["gym"])
    with pytest.raises(SceneError, match="several files of room gym"):
        prepare_tau_srir(folder)
    savemat(folder / "measinfo.mat", {"other": 1.0})
    with pytest.raises(SceneError, match=r"measinfo\.mat: expected a structure measinfo, got other"):
        prepare_tau_srir(folder)
    with h5py.File(folder / "measinfo.mat", "w"):
        pass
    with pytest.raises(SceneError, match=r"measinfo\.mat: not a readable MATLAB 5 file"):
        prepare_tau_srir(folder)
    savemat(folder / "rirdata.mat", {"rirdata": {"fs": 24000.0}})
    with pytest.raises(SceneError, match=r"measinfo\.mat|rirdata\.mat: expected a field room, got fs"):
        prepare_tau_srir(folder)
    (folder / "rirdata.mat").unlink()
    with pytest.raises(SceneError, match=r"rirdata\.mat: no such file"):
        prepare_tau_srir(folder)


def test_a_missing_h5py_names_the_extra(database, monkeypatch):
    folder = database.write()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DependencyError, match=r'needs h5py: pip install "salm\[tau\]"'):
        prepare_tau_srir(folder)


def test_the_fixture_is_what_it_says(database):
    """The slow way: intensity over the first milliseconds of what is written."""
    folder = database.write()
    with h5py.File(folder / "rirs_02_gym.mat") as file:
        stored = file[file["rirs/foa"][1, 0]][()]  # height 2 of trajectory 1
    w, y, z, x = stored[:, :, :150].transpose(1, 0, 2)
    intensity = np.stack([(w * x).sum(1), (w * y).sum(1), (w * z).sum(1)], axis=1)
    assert np.degrees(angle_between(intensity, database.directions["gym"][0][1])).max() < 1
