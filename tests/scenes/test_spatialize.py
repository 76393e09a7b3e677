"""Convolution against scipy and closed forms; noise, level and duration by their definitions."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from salm.errors import SceneError
from salm.geometry import foa_gains
from salm.scenes.spatialize import add_sensor_noise, fit_duration, mix, normalise_level, spatialize


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(("samples", "taps"), [(100_000, 4800), (50_000, 20_000), (10, 700), (1, 1), (33_000, 1)])
def test_spatialize_is_convolution(samples, taps):
    dry, response = noise(samples), noise(4, taps, seed=1)
    expected = fftconvolve(dry[None].astype(float), response.astype(float), axes=1)[:, :samples]
    foa = spatialize(dry, response)
    assert foa.dtype == np.float32 and foa.shape == (4, samples)
    np.testing.assert_allclose(foa, expected, atol=2e-6 * np.abs(expected).max())


def test_anechoic_response_gives_a_plane_wave():
    dry, gains = noise(5000), foa_gains(0.8, 0.3)
    response = np.zeros((4, 64), dtype=np.float32)
    response[:, 0] = gains
    np.testing.assert_allclose(spatialize(dry, response), gains[:, None] * dry, atol=1e-5)


def test_silent_stretches_keep_their_reverberation():
    dry = np.zeros(200_000, dtype=np.float32)
    dry[0] = 1.0
    response = noise(4, 9000)
    foa = spatialize(dry, response)
    np.testing.assert_allclose(foa[:, :9000], response, atol=1e-5)
    assert np.abs(foa[:, 9000:]).max() < 1e-5


def test_short_sounds_are_repeated_then_padded():
    assert fit_duration(np.array([1, 2, 3], np.float32), 8).tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert fit_duration(np.array([1, 2, 3], np.float32), 2).tolist() == [1, 2]
    with pytest.raises(SceneError, match="at least one sample"):
        fit_duration(np.zeros(0, np.float32), 8)


def test_mix_adds_at_the_starts():
    ones = np.ones((4, 3), np.float32)
    assert mix([ones, 2 * ones], [0, 2], 4)[1].tolist() == [1, 1, 3, 2]
    assert mix([ones], [9], 4).sum() == 0
    with pytest.raises(SceneError, match="start >= 0"):
        mix([ones], [-1], 4)


def test_noise_has_the_stated_power_in_every_channel():
    foa = noise(4, 100_000) * 0.1
    added = add_sensor_noise(foa, 20.0, np.random.default_rng(1)) - foa
    ratio_db = 10 * np.log10(np.mean(foa[0] ** 2) / np.mean(added**2, axis=1))
    np.testing.assert_allclose(ratio_db, 20.0, atol=0.1)
    assert not add_sensor_noise(np.zeros((4, 10), np.float32), 20.0, np.random.default_rng(1)).any()


def test_level_is_of_w_and_keeps_the_direction():
    foa = foa_gains(0.4, 0.1)[:, None].astype(np.float32) * noise(1, 50_000)
    leveled = normalise_level(foa, -30.0)
    assert 20 * np.log10(np.sqrt(np.mean(leveled[0] ** 2))) == pytest.approx(-30.0, abs=0.01)
    np.testing.assert_allclose(leveled[1] * foa[0], leveled[0] * foa[1], atol=1e-6)
    assert np.abs(normalise_level(foa, 0.0)).max() == pytest.approx(0.99, abs=1e-6)
    assert not normalise_level(np.zeros((4, 10), np.float32), -30.0).any()


def test_wrong_shapes_are_refused():
    with pytest.raises(SceneError, match=r"dry sound \(samples,\) and a response \(4, taps\)"):
        spatialize(noise(2, 100), noise(4, 10))
    with pytest.raises(SceneError, match=r"\(3, 10\)"):
        spatialize(noise(100), noise(3, 10))
