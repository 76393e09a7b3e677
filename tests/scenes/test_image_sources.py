import numpy as np
import pyroomacoustics as pra
import pytest

from salm.scenes.image_sources import image_sources
from salm.scenes.rooms import OCTAVE_BANDS_HZ, Room

SIZE = (5.0, 4.0, 3.0)
SOURCE, RECEIVER = np.array([3.1, 2.6, 1.2]), np.array([2.2, 1.4, 1.7])


def uneven_room() -> Room:
    walls = np.linspace(0.1, 0.6, 6)[:, None] * np.linspace(0.8, 1.4, 7)
    return Room(SIZE, tuple(map(tuple, walls.tolist())))


def test_images_are_those_of_pyroomacoustics():
    room, reach_m = uneven_room(), 14.0
    names = ("west", "east", "south", "north", "floor", "ceiling")
    materials = {
        name: pra.Material({"coeffs": list(absorption), "center_freqs": list(OCTAVE_BANDS_HZ)})
        for name, absorption in zip(names, room.absorption, strict=True)
    }
    # At 16 kHz pyroomacoustics has exactly the seven bands.
    oracle = pra.ShoeBox(SIZE, fs=16000, materials=materials, max_order=14, air_absorption=False)
    oracle.add_source(SOURCE)
    oracle.add_microphone(RECEIVER)
    oracle.image_source_model()
    expected, gains = oracle.sources[0].images.T - RECEIVER, oracle.sources[0].damping.T
    near = np.linalg.norm(expected, axis=1) <= reach_m
    expected, gains = expected[near], gains[near]
    vectors, found = image_sources(room, SOURCE, RECEIVER, reach_m)
    assert len(vectors) == len(expected) > 100
    nearest = np.argmin(np.linalg.norm(vectors[:, None] - expected, axis=2), axis=1)
    assert len(set(nearest)) == len(vectors)
    np.testing.assert_allclose(vectors, expected[nearest], atol=1e-5)
    np.testing.assert_allclose(found, gains[nearest], rtol=1e-5)


@pytest.mark.parametrize("reach_m", [0.0, 0.5, 20.0])
def test_the_source_comes_first_and_once(reach_m):
    vectors, gains = image_sources(uneven_room(), SOURCE, RECEIVER, reach_m)
    np.testing.assert_allclose(vectors[0], SOURCE - RECEIVER)
    np.testing.assert_array_equal(gains[0], 1.0)
    assert np.all(np.linalg.norm(vectors[1:], axis=1) <= reach_m)
    assert len(np.unique(vectors.round(6), axis=0)) == len(vectors)


def test_walls_that_treat_all_bands_alike_give_one_gain():
    vectors, gains = image_sources(Room.uniform(SIZE, 0.36), SOURCE, RECEIVER, 8.0)
    assert gains.shape == (len(vectors), 1)
    np.testing.assert_allclose(sorted(set(gains[:, 0].round(9)))[-2], 0.8)  # amplitude: the root of 1 - 0.36
