import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from salm.audio.features import LOG_MEL_FLOOR_DB, FeatureExtractor, mel_filterbank
from salm.config import FeatureConfig
from salm.errors import AudioFormatError, ConfigError, DependencyError
from salm.geometry import encode_plane_wave, unit_vector


@pytest.fixture(scope="module")
def extract():
    return FeatureExtractor()


def noise(channels: int, samples: int = 24_000, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, channels, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_maps_equal_those_of_pseldnets(extract, shared_dir):
    """Source: PSELDNets' own extractor, see ../shared/parity/README.md."""
    with np.load(shared_dir / "parity/pseldnets_features_expected.npz") as expected:
        maps = extract(torch.from_numpy(expected["foa"].astype(np.float32))[None])[0].numpy()
        assert np.abs(maps[:4] - expected["features"][:4]).max() < 1e-3  # dB
        assert np.abs(maps[4:] - expected["features"][4:]).max() < 1e-5


def test_shape_of_a_ten_second_clip(extract):
    assert extract(torch.zeros(2, 4, 240_000)).shape == (2, 7, 1001, 64)
    assert FeatureConfig().num_frames == 1001


def test_a_gain_shifts_log_mel_and_leaves_intensity(extract):
    foa = noise(4)
    maps, louder = extract(foa), extract(4.0 * foa)
    shift = torch.full_like(maps[:, :4], 20 * math.log10(4))
    torch.testing.assert_close(louder[:, :4] - maps[:, :4], shift, atol=1e-3, rtol=0)
    torch.testing.assert_close(louder[:, 4:], maps[:, 4:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("azimuth_deg", "elevation_deg"), [(0, 0), (90, 0), (-135, 20), (45, -60)])
def test_intensity_points_to_a_plane_wave(extract, azimuth_deg, elevation_deg):
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    foa = encode_plane_wave(noise(1)[0, 0].numpy(), azimuth, elevation).astype(np.float32)
    flow = extract(torch.from_numpy(foa)[None])[0, 4:].mean(dim=(1, 2)).numpy()
    direction = flow[[2, 0, 1]] / np.linalg.norm(flow)  # Y, Z, X -> x, y, z
    np.testing.assert_allclose(direction, unit_vector(azimuth, elevation), atol=1e-3)


def test_silence_is_finite(extract):
    maps = extract(torch.zeros(1, 4, 24_000))
    assert (maps[:, :4] == LOG_MEL_FLOOR_DB).all()
    assert not maps[:, 4:].any()


def test_a_batch_is_its_clips_one_by_one(extract):
    clips = torch.cat([noise(4, seed=seed) for seed in range(3)])
    alone = torch.cat([extract(clip[None]) for clip in clips])
    assert torch.equal(extract(clips), alone)


def test_mono_gives_the_map_of_w(extract):
    foa = noise(4)
    torch.testing.assert_close(extract(foa[:, :1])[:, 0], extract(foa)[:, 0], atol=1e-4, rtol=0)


def compiled_extractor(config=None, weights=None):
    try:
        return FeatureExtractor(config, weights, compiled_for="the test")
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("samples", [513, 601, 24_000, 240_000])
def test_compiled_maps_are_the_same(extract, samples):
    compiled = compiled_extractor()
    for channels in (1, 4):
        sound = noise(channels, samples) * torch.logspace(-4, 0, samples)
        sound[..., samples // 2 : samples // 2 + 300] = 0.0
        expected, maps = extract(sound), compiled(sound)
        torch.testing.assert_close(maps[:, :channels], expected[:, :channels], atol=1e-3, rtol=0)  # dB
        torch.testing.assert_close(maps[:, channels:], expected[:, channels:], atol=1e-6, rtol=0)
        assert not torch.equal(maps, expected)
    torch.testing.assert_close(compiled(torch.zeros(1, 4, 1200)), extract(torch.zeros(1, 4, 1200)))


@pytest.mark.parametrize("gain_db", [-160.0, -60.0, 0.0, 160.0])
def test_compiled_decibels_are_those_of_any_power(extract, gain_db):
    sound = 10 ** (gain_db / 20) * noise(1)
    torch.testing.assert_close(compiled_extractor()(sound), extract(sound), atol=1e-4, rtol=1e-6)


def test_compiled_maps_of_clips_as_they_lie(extract):
    clips = torch.cat([noise(4), noise(4, seed=1)])
    compiled = compiled_extractor()
    maps = compiled(clips)
    assert torch.equal(maps[1:], compiled(clips[1:]))
    assert torch.equal(compiled(clips.transpose(1, 2).contiguous().transpose(1, 2)), maps)
    assert torch.equal(compiled(clips.double()), maps)


def test_compiled_maps_keep_what_is_no_number(extract):
    sound = noise(4)
    sound[:, 2, 6000] = torch.nan
    maps = compiled_extractor()(sound)
    assert 0 < maps.isnan().sum() < maps.numel() / 2
    assert torch.equal(maps.isnan(), extract(sound).isnan())


@pytest.mark.parametrize("fft_samples", [16, 64, 512, 2048, 600])
def test_compiled_maps_of_other_frames(fft_samples):
    config = replace(FeatureConfig(), fft_samples=fft_samples, hop_samples=100)
    weights = torch.rand(fft_samples // 2 + 1, 64)
    compiled = compiled_extractor(config, weights)
    torch.testing.assert_close(compiled(noise(4)), FeatureExtractor(config, weights)(noise(4)), atol=1e-3, rtol=1e-4)


def test_compiled_maps_are_the_same_on_any_number_of_threads():
    threads, compiled, maps = torch.get_num_threads(), compiled_extractor(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            maps.append(compiled(noise(4)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


def test_compiled_maps_of_another_filterbank():
    weights = torch.zeros(513, 5)
    weights[512, 0] = weights[0, 2] = weights[500:, 3] = weights[:, 4] = 1.0  # the ends, all bins, and a silent filter
    config = replace(FeatureConfig(), num_mels=5)
    compiled = compiled_extractor(config, weights)
    torch.testing.assert_close(compiled(noise(4)), FeatureExtractor(config, weights)(noise(4)), atol=1e-3, rtol=1e-4)


def test_filterbank_against_transformers():
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(513, 64, 20.0, 12_000.0, 24_000, norm="slaney", mel_scale="htk")
    np.testing.assert_allclose(mel_filterbank(FeatureConfig()).numpy(), expected, atol=1e-7)


def test_filterbank_against_torchaudio():
    functional = pytest.importorskip("torchaudio.functional", exc_type=ImportError)
    expected = functional.melscale_fbanks(513, 20.0, 12_000.0, 64, 24_000, norm="slaney", mel_scale="htk")
    torch.testing.assert_close(mel_filterbank(FeatureConfig()), expected, atol=1e-5, rtol=1e-3)


def test_bad_input_is_refused(extract):
    with pytest.raises(AudioFormatError, match="got 2"):
        extract(torch.zeros(1, 2, 24_000))
    with pytest.raises(AudioFormatError, match="expected more than 512 samples .* got 512"):
        extract(torch.zeros(1, 4, 512))
    with pytest.raises(ConfigError, match="do not fit below half the sample rate"):
        FeatureConfig(sample_rate_hz=16_000)
    with pytest.raises(ConfigError, match=r"features\.num_mels: expected a positive whole number, got 0"):
        FeatureConfig(num_mels=0)
