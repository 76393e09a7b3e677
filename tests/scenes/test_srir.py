"""Room responses against closed forms, symmetries, pyroomacoustics' own response, and decay laws."""

import math

import numpy as np
import pyroomacoustics as pra
import pytest
from scipy.signal import butter, sosfiltfilt

from salm.errors import SceneError
from salm.geometry import angle_between, foa_gains, foa_rotation, rotation_about, unit_vector
from salm.scenes.rooms import OCTAVE_BANDS_HZ, SPEED_OF_SOUND_M_S, Room, sample_positions, sample_room
from salm.scenes.srir import DIRECT_S, _band_filters, _pulses, _pulses_by_phase, decay_time, simulate_srir

RATE = 24000
DIRECT = round(DIRECT_S * RATE)
SIZE, SOURCE, RECEIVER = (5.0, 4.0, 3.0), (3.9, 2.9, 1.8), (2.2, 1.7, 1.4)


def uneven_room() -> Room:
    """Every wall absorbs differently, and more at high frequencies."""
    walls = np.linspace(0.1, 0.4, 6)[:, None] + np.linspace(0.0, 0.3, len(OCTAVE_BANDS_HZ))
    return Room(SIZE, tuple(tuple(row) for row in walls.tolist()))


@pytest.mark.parametrize("azimuth_deg", [0, 37, 90, 135, 180, -45, -120])
def test_anechoic_response_is_a_plane_wave(azimuth_deg):
    azimuth, elevation = math.radians(azimuth_deg), math.radians(20)
    receiver = np.array([4.0, 4.0, 3.0])
    source = receiver + 1.7 * unit_vector(azimuth, elevation)
    srir = simulate_srir(Room.uniform((8.0, 8.0, 6.0), 1.0), tuple(source), tuple(receiver), RATE, duration_s=0.01)
    expected = np.zeros((4, DIRECT + 240))
    expected[:, DIRECT] = foa_gains(azimuth, elevation)
    np.testing.assert_allclose(srir.response, expected, atol=2e-6)
    assert srir.distance_m == pytest.approx(1.7)
    assert (srir.azimuth_rad, srir.elevation_rad) == pytest.approx((azimuth, elevation), abs=1e-6)


def test_direct_part_points_to_the_source_in_a_room():
    srir = simulate_srir(uneven_room(), SOURCE, RECEIVER, RATE, generator=np.random.default_rng(0))
    w, y, z, x = srir.response[:, DIRECT - 6 : DIRECT + 7]
    intensity = np.array([np.dot(w, x), np.dot(w, y), np.dot(w, z)])
    assert np.degrees(angle_between(intensity, unit_vector(srir.azimuth_rad, srir.elevation_rad))) < 1.0
    np.testing.assert_allclose(srir.response[:, DIRECT], foa_gains(srir.azimuth_rad, srir.elevation_rad), atol=0.02)


def test_turning_the_room_turns_the_field():
    room = uneven_room()
    old = room.absorption
    turned = Room((SIZE[1], SIZE[0], SIZE[2]), (old[3], old[2], old[0], old[1], old[4], old[5]))

    def turn(place):
        return SIZE[1] - place[1], place[0], place[2]

    before = simulate_srir(room, SOURCE, RECEIVER, RATE, duration_s=0.05).response
    after = simulate_srir(turned, turn(SOURCE), turn(RECEIVER), RATE, duration_s=0.05).response
    rotation = foa_rotation(rotation_about((0, 0, 1), math.pi / 2))
    np.testing.assert_allclose(after, rotation @ before, atol=2e-3)  # images come in single precision, delays with them
    assert np.abs(after - before).max() > 0.1


def test_mirroring_the_room_flips_y_alone():
    room = uneven_room()
    old = room.absorption
    mirrored = Room(SIZE, (old[0], old[1], old[3], old[2], old[4], old[5]))

    def flip(place):
        return place[0], SIZE[1] - place[1], place[2]

    before = simulate_srir(room, SOURCE, RECEIVER, RATE, duration_s=0.05).response
    after = simulate_srir(mirrored, flip(SOURCE), flip(RECEIVER), RATE, duration_s=0.05).response
    np.testing.assert_allclose(after, np.diag([1, -1, 1, 1]) @ before, atol=2e-3)


def test_w_agrees_with_pyroomacoustics_own_response():
    distance = 140 * SPEED_OF_SOUND_M_S / RATE  # a whole number of samples, so that both direct sounds are on the grid
    receiver = np.array(RECEIVER)
    source = receiver + distance * unit_vector(0.6, 0.2)
    ours = simulate_srir(
        Room.uniform(SIZE, 0.3), tuple(source), tuple(receiver), RATE, duration_s=0.09, max_images=20000,
        air_absorption=False,
    ).response[0]  # fmt: skip
    oracle = pra.ShoeBox(SIZE, fs=RATE, materials=pra.Material(0.3), max_order=25, air_absorption=False)
    oracle.add_source(source)
    oracle.add_microphone(receiver)
    oracle.compute_rir()
    theirs = oracle.rir[0][0]
    start = 140 + pra.constants.get("frac_delay_length") // 2 - DIRECT
    theirs = theirs[start : start + len(ours)]
    common_band = butter(8, [100, 8000], "bandpass", fs=RATE, output="sos")
    inside = slice(0, round(0.07 * RATE))  # clear of the cut end
    ours, theirs = sosfiltfilt(common_band, ours)[inside], sosfiltfilt(common_band, theirs)[inside]
    scale = np.dot(ours, theirs) / np.dot(theirs, theirs)
    assert np.linalg.norm(ours - scale * theirs) < 0.01 * np.linalg.norm(ours)
    assert scale == pytest.approx(distance, rel=0.001)


def test_octave_filters_sum_to_a_pulse():
    filters = _band_filters(4096, RATE)
    assert filters.shape == (7, 2049)
    np.testing.assert_allclose(filters.sum(axis=0), 1.0, atol=1e-6)


def test_walls_absorb_per_band():
    """A first reflection from one wall has the gain sqrt(1 - absorption) of each band."""
    absorption = [[1.0] * 7 for _ in range(6)]
    absorption[4] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # only the floor reflects
    room = Room((40.0, 40.0, 20.0), tuple(tuple(wall) for wall in absorption))
    srir = simulate_srir(room, (21.0, 20.0, 8.0), (20.0, 20.0, 8.0), RATE, duration_s=0.12, air_absorption=False)
    path = math.sqrt(1 + 16**2)
    pulse = srir.response[0].copy()
    pulse[: DIRECT + 100] = 0
    spectrum = np.abs(np.fft.rfft(pulse, 8192))
    for centre, absorbed in zip(OCTAVE_BANDS_HZ[2:], absorption[4][2:], strict=True):
        assert spectrum[round(centre / RATE * 8192)] == pytest.approx(math.sqrt(1 - absorbed) / path, rel=0.03)


def test_tail_continues_the_energy_of_the_images():
    room, places = uneven_room(), {"source_m": SOURCE, "receiver_m": RECEIVER, "duration_s": 0.25}
    whole = simulate_srir(room, **places, sample_rate=RATE, max_images=100_000).response
    cut = simulate_srir(room, **places, sample_rate=RATE, generator=np.random.default_rng(0), max_images=1000).response
    np.testing.assert_allclose(cut[:, :500], whole[:, :500], atol=1e-3)
    band = butter(3, [2800, 5600], "bandpass", fs=RATE, output="sos")
    energy = [
        np.square(sosfiltfilt(band, part)).reshape(4, 4, -1).sum(axis=-1) for part in (whole[:, 48:], cut[:, 48:])
    ]
    difference_db = 10 * np.log10(energy[1] / energy[0])
    assert np.abs(difference_db).max() < 3.0  # four quarters of 62 ms, four channels
    assert abs(difference_db.mean()) < 0.7


def test_measured_decay_is_the_rooms():
    generator = np.random.default_rng(3)
    ratios = []
    for _ in range(12):
        room = sample_room(generator, (0.2, 0.8))
        place = sample_positions(room, generator, 1, "anywhere")[0]
        ratios.append(simulate_srir(room, place.source_m, place.receiver_m, generator=generator).rt60_s / room.rt60_s)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.08)
    assert min(ratios) > 0.6 and max(ratios) < 1.5


def test_decay_time_of_an_exponential():
    time_s = np.arange(RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(RATE) * 10 ** (-3 * time_s / 0.4)
    assert decay_time(noise, RATE) == pytest.approx(0.4, rel=0.05)
    assert decay_time(np.eye(1, 100)[0], RATE) == 0.0


def test_same_seed_same_response():
    def once(seed):
        return simulate_srir(uneven_room(), SOURCE, RECEIVER, RATE, generator=np.random.default_rng(seed)).response

    first = once(1)
    assert first.dtype == np.float32 and np.isfinite(first).all()
    assert first.tobytes() == once(1).tobytes() != once(2).tobytes()


def test_impossible_places_are_refused():
    room = uneven_room()
    with pytest.raises(SceneError, match=r"source .* is not inside the room"):
        simulate_srir(room, (6.0, 1.0, 1.0), RECEIVER)
    with pytest.raises(SceneError, match="0.000 m apart"):
        simulate_srir(room, RECEIVER, RECEIVER)


def test_pulses_gathered_by_phase_are_the_sum_of_sincs():
    generator = np.random.default_rng(0)
    delays = generator.uniform(20.0, 600.0, 3000)
    delays[:3] = (48.0, 700.3, 699.0)  # on a sample, after the end, at the end
    signals = generator.standard_normal((3000, 4))
    expected, found = (pulses(delays, signals, 700) for pulses in (_pulses, _pulses_by_phase))
    assert found.shape == (4, 700)
    spectra = np.fft.rfft(expected), np.fft.rfft(found - expected)
    common = slice(0, 700 // 3)  # to a third of the rate
    error_db = 20 * np.log10(np.linalg.norm(spectra[1][:, common]) / np.linalg.norm(spectra[0][:, common]))
    assert error_db < -65.0


def test_equal_bands_are_one_band():
    absorption = np.full((6, 7), 0.3) + np.arange(6)[:, None] * 0.05
    nearly = absorption.copy()
    nearly[0, 0] += 1e-6  # not the same in all bands any more
    one, seven = (
        simulate_srir(Room(SIZE, tuple(map(tuple, table))), SOURCE, RECEIVER, air_absorption=False).response
        for table in (absorption, nearly)
    )
    assert np.linalg.norm(one - seven) < 1e-3 * np.linalg.norm(seven)
