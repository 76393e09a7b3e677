import numpy as np
import torch

from salm.audio.augment import axis_turns, change_speed, quarter_turns, recolour, shift_level, turn_maps
from salm.audio.features import LOG_MEL_FLOOR_DB, FeatureExtractor
from salm.geometry import foa_rotation


def field(seed=0):
    """Two seconds of four different noises, as float32 (4, samples)."""
    return np.random.default_rng(seed).normal(0, [[0.1], [0.05], [0.02], [0.08]], (4, 48_000)).astype(np.float32)


def maps(foa):
    return FeatureExtractor()(torch.from_numpy(foa)[None])[0]


def test_turned_maps_are_the_maps_of_the_turned_field():
    foa = field()
    for turn in axis_turns():
        turned = (foa_rotation(turn) @ foa).astype(np.float32)
        torch.testing.assert_close(turn_maps(maps(foa), turn), maps(turned), atol=1e-4, rtol=1e-4)


def test_quarter_turns_are_the_16_symmetries_that_keep_the_vertical_axis():
    turns = quarter_turns()
    assert len({turn.tobytes() for turn in turns}) == 16
    for turn in turns:
        np.testing.assert_array_equal(turn @ turn.T, np.eye(3))
        np.testing.assert_array_equal(np.abs(turn[2]), [0, 0, 1])


def test_axis_turns_are_all_symmetries_of_a_cube():
    assert len({turn.tobytes() for turn in axis_turns()}) == 48
    for turn in axis_turns():
        np.testing.assert_array_equal(turn @ turn.T, np.eye(3))


def test_shifted_level_is_the_level_of_the_louder_field():
    foa = field(1)
    louder = (foa * 10 ** (6 / 20)).astype(np.float32)
    torch.testing.assert_close(shift_level(maps(foa), 6.0), maps(louder), atol=1e-3, rtol=1e-4)


def test_shifted_level_stops_at_the_floor():
    silent = maps(np.zeros((4, 48_000), np.float32))
    assert float(shift_level(silent, -6.0)[:4].min()) == LOG_MEL_FLOOR_DB


def test_a_faster_sound_is_shorter_and_higher():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(24_000) / 24_000).astype(np.float32)
    faster = change_speed(tone, 1.25, 24_000)
    assert abs(len(faster) - 19_200) <= 1
    peak_hz = np.argmax(np.abs(np.fft.rfft(faster))) * 24_000 / len(faster)
    assert abs(peak_hz - 1_250) < 2
    assert change_speed(tone, 1.0, 24_000) is tone


def test_recolouring_changes_octaves_and_no_phase():
    noise = field()[0]
    coloured = recolour(noise, 6.0, 24_000, np.random.default_rng(4))
    assert coloured.shape == noise.shape
    assert coloured.dtype == np.float32
    ratio = np.fft.rfft(coloured) / np.fft.rfft(noise)
    np.testing.assert_allclose(np.angle(ratio), 0.0, atol=0.01)
    gains_db = 20 * np.log10(np.abs(ratio[[2_000, 4_000, 8_000, 16_000]]))  # 1, 2, 4, 8 kHz
    assert 1.0 < np.std(gains_db) < 12.0
    assert recolour(noise, 0.0, 24_000, np.random.default_rng(4)) is noise
