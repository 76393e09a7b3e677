"""Rooms: decay laws, the sampler's ranges, and where sources may stand."""

import math

import numpy as np
import pytest

from salm.errors import SceneError
from salm.geometry import azimuth_elevation
from salm.scenes.rooms import (
    MIN_SOURCE_DISTANCE_M,
    OCTAVE_BANDS_HZ,
    SPEED_OF_SOUND_M_S,
    WALL_CLEARANCE_M,
    Room,
    sample_positions,
    sample_room,
)


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    generator = np.random.default_rng(0)
    return [sample_room(generator) for _ in range(60)]


def test_mean_decay_rate_of_a_cube_is_eyrings():
    room = Room.uniform((5.0, 5.0, 5.0), 0.3)
    eyring = -SPEED_OF_SOUND_M_S * 6 * 25 * math.log(0.7) / (4 * 125)
    assert room.decay_rates[0].mean() == pytest.approx(eyring, rel=0.01)  # the 125 Hz band: next to no air


def test_reverberation_of_a_live_cube_is_near_sabines():
    room = Room.uniform((4.0, 4.0, 4.0), 0.05)
    sabine_s = 0.161 * 64 / (6 * 16 * 0.05)
    assert room.band_rt60_s[0] == pytest.approx(sabine_s, rel=0.12)  # bound: images decay slower than a diffuse field


def test_anechoic_room_does_not_reverberate():
    assert Room.uniform((4.0, 5.0, 3.0), 1.0).rt60_s < 0.03


def test_sampled_rooms_keep_their_ranges(rooms):
    sizes = np.array([room.dimensions_m for room in rooms])
    rt60_s = np.array([room.rt60_s for room in rooms])
    assert np.all((sizes[:, :2] >= 3.0) & (sizes[:, :2] <= 15.0)) and np.all(
        (sizes[:, 2] >= 2.4) & (sizes[:, 2] <= 6.0)
    )
    assert np.all((rt60_s >= 0.099) & (rt60_s <= 0.81))
    assert rt60_s.min() < 0.25 and rt60_s.max() > 0.65
    assert min(room.volume_m3 for room in rooms) < 40 and max(room.volume_m3 for room in rooms) > 300


def test_high_frequencies_decay_faster(rooms):
    assert rooms
    for room in rooms:
        bands = room.band_rt60_s
        assert len(bands) == len(OCTAVE_BANDS_HZ)
        assert bands[0] > bands[-1]


def test_same_seed_same_room():
    assert sample_room(np.random.default_rng(5)) == sample_room(np.random.default_rng(5))


def test_walls_differ_as_much_as_is_asked():
    def spread(asked: float) -> float:
        generator = np.random.default_rng(3)
        walls = [np.array(sample_room(generator, (0.4, 0.8), asked).absorption)[:, 3] for _ in range(30)]
        return float(np.mean([np.log(-np.log(1 - wall)).std(ddof=1) for wall in walls]))

    assert spread(0.0) == pytest.approx(0.0, abs=1e-9)
    assert spread(0.35) == pytest.approx(0.35, rel=0.2)
    assert spread(1.0) == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("receiver", ["centre", "anywhere"])
def test_sources_stand_in_the_room_and_all_around(rooms, receiver):
    generator = np.random.default_rng(1)
    azimuths, elevations = [], []
    for room in rooms:
        places = sample_positions(room, generator, 12, receiver)
        assert len({place.receiver_m for place in places}) == 1
        if receiver == "centre":
            assert places[0].receiver_m == tuple(size / 2 for size in room.dimensions_m)
        assert np.all(np.array(places[0].receiver_m[:2]) >= 0.5)
        sources = np.array([place.source_m for place in places])
        assert np.all(sources >= WALL_CLEARANCE_M - 1e-9)
        assert np.all(sources <= np.array(room.dimensions_m) - WALL_CLEARANCE_M + 1e-9)
        vectors = sources - places[0].receiver_m
        assert np.linalg.norm(vectors, axis=1).min() >= MIN_SOURCE_DISTANCE_M - 1e-9
        azimuth, elevation = azimuth_elevation(vectors)
        azimuths.extend(azimuth)
        elevations.extend(elevation)
    uniform = np.linspace(-math.pi, math.pi, len(azimuths))
    assert np.max(np.abs(np.sort(azimuths) - uniform)) < 0.06 * 2 * math.pi  # Kolmogorov-Smirnov, 1 % level at n = 720
    assert np.mean(np.abs(np.degrees(elevations)) < 35) > 0.9
    assert np.max(np.abs(np.degrees(elevations))) <= 45.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Room.uniform((3.0, 0.0, 2.4), 0.2), "dimensions"),
        (lambda: Room.uniform((3.0, math.nan, 2.4), 0.2), "dimensions"),
        (lambda: Room.uniform((3.0, 3.0, 2.4), 1.5), r"absorption in \(0, 1\]"),
        (lambda: sample_room(np.random.default_rng(0), (0.8, 0.1)), "RT60 range"),
        (lambda: sample_room(np.random.default_rng(0), wall_spread=-0.1), "spread between walls of at least 0"),
        (lambda: sample_positions(Room.uniform((1.5, 3.0, 2.4), 0.2), np.random.default_rng(0)), "too small"),
        (lambda: sample_positions(Room.uniform((3.0, 3.0, 2.4), 0.2), np.random.default_rng(0), 1, "corner"), "centre"),
    ],
)
def test_impossible_rooms_are_refused(make, message):
    with pytest.raises(SceneError, match=message):
        make()
