"""The everyday sounds: laws that hold for every kind, and what tells one kind from another."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.signal import welch

from salm.audio.io import SAMPLE_RATE_HZ
from salm.errors import SceneError
from salm.geometry import find_elevation, find_sector
from salm.scenes.everyday import EVERYDAY_CAPTIONS, EVERYDAY_KINDS, everyday_sound

SEEDS = range(3)
TONAL = ("church bells", "siren", "car horn", "doorbell")
NOISY = ("rain falling", "applause")


@cache
def sound_of(kind: str, seed: int) -> np.ndarray:
    """Made once for all tests; read-only."""
    sound = everyday_sound(kind, seed)
    sound.flags.writeable = False
    return sound


def flatness(sound: np.ndarray) -> float:
    """Spectral flatness in (0, 1] between 200 Hz and 8 kHz: near 1 for white noise, near 0 for tones."""
    frequency, power = welch(sound, SAMPLE_RATE_HZ, nperseg=2048)
    power = power[(frequency > 200) & (frequency < 8_000)]
    return float(np.exp(np.mean(np.log(power))) / np.mean(power))


def peak_hz(sound: np.ndarray) -> float:
    frequency, power = welch(sound, SAMPLE_RATE_HZ, nperseg=4096)
    return float(frequency[np.argmax(power)])


def centroid_hz(sound: np.ndarray) -> float:
    frequency, power = welch(sound, SAMPLE_RATE_HZ, nperseg=2048)
    return float(np.sum(frequency * power) / np.sum(power))


def envelope(sound: np.ndarray, frame_s: float = 0.01) -> np.ndarray:
    """RMS of frames of 10 ms."""
    size = round(frame_s * SAMPLE_RATE_HZ)
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    return np.sqrt(np.mean(frames**2, axis=1))


def bursts_s(sound: np.ndarray, threshold: float = 0.15) -> list[float]:
    """Lengths of the stretches that are louder than a share of the loudest 10 ms, those over 40 ms."""
    loud = np.concatenate([[False], envelope(sound) > threshold * envelope(sound).max(), [False]])
    edges = np.flatnonzero(np.diff(loud.astype(int)))
    return [0.01 * length for length in edges[1::2] - edges[::2] if length > 4]


def test_kinds_are_the_25_of_the_demo_and_all_have_captions():
    assert len(EVERYDAY_KINDS) == len(set(EVERYDAY_KINDS)) == 25
    assert set(EVERYDAY_CAPTIONS) == set(EVERYDAY_KINDS)
    for kind, captions in EVERYDAY_CAPTIONS.items():
        assert 3 <= len(captions) == len(set(captions)), kind
        assert all(caption and caption == caption.strip() for caption in captions), kind


def test_captions_name_no_direction():
    for kind, captions in EVERYDAY_CAPTIONS.items():
        for text in (kind, *captions):
            # Spatial captions add the true one; "a helicopter overhead" would contradict it.
            assert find_sector(text) is None, text
            assert find_elevation(text) is None, text


@pytest.mark.parametrize("kind", EVERYDAY_KINDS)
def test_form_length_and_level(kind):
    for seed in SEEDS:
        sound = sound_of(kind, seed)
        assert sound.dtype == np.float32 and sound.ndim == 1
        assert np.isfinite(sound).all()
        assert 2.0 <= len(sound) / SAMPLE_RATE_HZ <= 6.0
        assert -3.01 <= 20 * math.log10(np.abs(sound).max()) <= -0.99
        assert abs(float(sound.mean())) < 0.01
        assert abs(sound[0]) < 1e-3 and abs(sound[-1]) < 1e-3  # no click where it begins and ends
        assert 20 * math.log10(float(np.sqrt(np.mean(sound**2)))) > -45.0


@pytest.mark.parametrize("kind", EVERYDAY_KINDS)
def test_a_seed_fixes_the_sound_and_another_gives_another(kind):
    first, again, other = sound_of(kind, 1), everyday_sound(kind, 1), sound_of(kind, 2)
    np.testing.assert_array_equal(first, again)
    length = min(len(first), len(other))
    assert len(first) != len(other) or np.abs(first - other).max() > 0.01
    assert abs(np.corrcoef(first[:length], other[:length])[0, 1]) < 0.5


def test_the_global_generator_plays_no_part():
    np.random.seed(1)
    first = everyday_sound("rain falling", 0)
    np.random.seed(2)
    np.testing.assert_array_equal(first, everyday_sound("rain falling", 0))


@pytest.mark.parametrize("kind", TONAL)
@pytest.mark.parametrize("seed", SEEDS)
def test_tonal_kinds_are_far_less_flat_than_noisy_ones(kind, seed):
    tonal = flatness(sound_of(kind, seed))
    for noisy in NOISY:
        # A tone has its energy in few lines: at least 6 dB less flat than any noise.
        assert tonal < 0.25 * flatness(sound_of(noisy, seed)), noisy


@pytest.mark.parametrize("seed", range(8))
def test_a_dog_barks_in_short_bursts_below_3_khz(seed):
    sound = sound_of("dog barking", seed)
    lengths = bursts_s(sound)
    assert len(lengths) >= 2
    assert 0.06 < np.median(lengths) < 0.35
    assert 250 < peak_hz(sound) < 2_000
    quiet = np.quantile(envelope(sound), 0.1)
    assert quiet < 0.1 * envelope(sound).max()  # pauses between the barks


@pytest.mark.parametrize("seed", SEEDS)
def test_high_and_low_kinds(seed):
    assert 2_500 < peak_hz(sound_of("crickets chirping", seed)) < 6_500
    assert 2_000 < peak_hz(sound_of("birds chirping", seed)) < 7_500
    assert centroid_hz(sound_of("thunderstorm", seed)) < 1_000
    assert centroid_hz(sound_of("engine idling", seed)) < centroid_hz(sound_of("rain falling", seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_rotor_blades_pulse_at_a_blade_rate(seed):
    loudness = envelope(sound_of("helicopter", seed))
    spectrum = np.abs(np.fft.rfft((loudness - loudness.mean()) * np.hanning(len(loudness))))
    rate_hz = np.fft.rfftfreq(len(loudness), 0.01)
    strongest = rate_hz[rate_hz > 5][np.argmax(spectrum[rate_hz > 5])]
    assert 8 < strongest < 35
    assert spectrum[rate_hz > 5].max() > 5 * np.median(spectrum[rate_hz > 5])


def test_other_rates_keep_duration_and_pitch():
    at_24, at_48 = everyday_sound("church bells", 3), everyday_sound("church bells", 3, 48_000)
    assert len(at_48) / 48_000 == pytest.approx(len(at_24) / SAMPLE_RATE_HZ, abs=1e-3)
    frequency, power = welch(at_48, 48_000, nperseg=8192)
    assert frequency[np.argmax(power)] == pytest.approx(peak_hz(at_24), abs=6.0)


@pytest.mark.parametrize("duration_s", [2.0, 10.0])
def test_a_given_duration_is_kept(duration_s):
    for kind in ("dog barking", "siren", "rain falling", "glass breaking"):
        assert len(everyday_sound(kind, 0, duration_s=duration_s)) == round(duration_s * SAMPLE_RATE_HZ)


def test_mistakes_name_the_way_out():
    with pytest.raises(SceneError, match=r"unknown everyday sound 'unicorn'; expected one of dog barking, cat meowing"):
        everyday_sound("unicorn", 0)
    with pytest.raises(SceneError, match="expected a seed of 0 or more, got -1"):
        everyday_sound("siren", -1)
    with pytest.raises(SceneError, match=r"expected a duration of 2 to 60 s, got 0\.5"):
        everyday_sound("siren", 0, duration_s=0.5)
    with pytest.raises(SceneError, match="expected a sample rate of at least 1000 Hz, got 100"):
        everyday_sound("siren", 0, 100)
