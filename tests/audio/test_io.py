import errno
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from salm.audio.io import (
    SAMPLE_RATE_HZ,
    array_windows,
    audio_info,
    fit_window,
    read_audio,
    read_foa,
    read_mono,
    stream_windows,
    validate_array,
    window_starts,
    write_foa,
)
from salm.errors import AudioFormatError


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def tone(rate: int, duration_s: float = 1.0, frequency_hz: float = 440.0) -> np.ndarray:
    """The same tone in all four channels, with gains 1, 0.5, 0.25, 0.125."""
    time = np.arange(round(rate * duration_s)) / rate
    return np.outer([1.0, 0.5, 0.25, 0.125], 0.5 * np.sin(2 * math.pi * frequency_hz * time)).astype(np.float32)


def wav(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE_HZ, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples.T, rate, subtype=subtype)
    return path


def test_reading_a_float_file_gives_its_samples_back(tmp_path):
    samples = noise(4, 5_000)
    np.testing.assert_array_equal(read_foa(wav(tmp_path / "a.wav", samples)), samples)


@pytest.mark.parametrize(("suffix", "bound"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05)])
def test_formats(tmp_path, suffix, bound):
    samples = tone(SAMPLE_RATE_HZ)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples.T, SAMPLE_RATE_HZ)
    np.testing.assert_allclose(read_foa(path), samples, atol=bound)


def test_mp3_gives_mono(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(48_000)[0], 48_000)
    samples = read_audio(path, allow_mono=True)
    assert samples.shape[0] == 1
    assert abs(samples.shape[1] - SAMPLE_RATE_HZ) < 2_400
    assert 0.25 < np.abs(samples).max() < 0.75


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_becomes_24_khz(tmp_path, rate):
    samples = read_foa(wav(tmp_path / "a.wav", tone(rate), rate))
    assert samples.shape == (4, SAMPLE_RATE_HZ)
    middle = slice(2_000, 22_000)  # the filter rings at the ends
    np.testing.assert_allclose(samples[:, middle], tone(SAMPLE_RATE_HZ)[:, middle], atol=1e-3)


def test_declared_fuma_is_converted(tmp_path):
    x, y, z = noise(3, 1_000)
    w = noise(1, 1_000, seed=1)[0] / 2
    fuma = np.stack([w / np.float32(math.sqrt(2)), x, y, z])
    path = wav(tmp_path / "a.wav", fuma)
    np.testing.assert_allclose(read_foa(path, convention="fuma"), np.stack([w, y, z, x]), atol=1e-6)
    np.testing.assert_array_equal(read_foa(path), fuma)


def test_unknown_convention_lists_the_valid_ones(tmp_path):
    path = wav(tmp_path / "a.wav", noise(4, 100))
    with pytest.raises(AudioFormatError, match=r"'n3d'; expected one of ambix, fuma"):
        read_foa(path, convention="n3d")


def test_mono_only_where_it_is_allowed(tmp_path):
    path = wav(tmp_path / "mono.wav", noise(1, 100))
    assert read_audio(path, allow_mono=True).shape == (1, 100)
    with pytest.raises(AudioFormatError, match=r"mono\.wav: expected 4 FOA channels .* got 1; for a mono file"):
        read_foa(path)


@pytest.mark.parametrize(
    ("channels", "hint"), [(2, "first-order"), (3, "first-order"), (9, "keep the first 4"), (6, "SALM")]
)
def test_other_channel_counts_are_refused(tmp_path, channels, hint):
    path = wav(tmp_path / "many.wav", noise(channels, 100))
    with pytest.raises(AudioFormatError, match=rf"many\.wav: expected 4 FOA channels .* got {channels}; .*{hint}"):
        read_audio(path, allow_mono=True)


def test_dry_sounds_are_averaged_to_mono(tmp_path):
    samples = noise(2, 500)
    np.testing.assert_allclose(read_mono(wav(tmp_path / "stereo.wav", samples)), samples.mean(axis=0), atol=1e-7)


def test_unusable_files_name_file_and_next_step(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio at all")
    cases = {
        "missing.wav": "no such file; check the path",
        "empty.wav": "empty file .* record it again",
        "text.wav": "not a readable audio file .* expected wav, flac, ogg or mp3",
        ".": "a folder, expected an audio file",
    }
    for name, message in cases.items():
        with pytest.raises(AudioFormatError, match=message):
            read_foa(tmp_path / name)


def test_unreadable_file(tmp_path, monkeypatch):
    path = wav(tmp_path / "locked.wav", noise(4, 100))
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioFormatError, match=r"locked\.wav: cannot be read .* permissions"):
        read_foa(path)


def test_no_samples(tmp_path):
    with pytest.raises(AudioFormatError, match=r"none\.wav: no samples"):
        read_foa(wav(tmp_path / "none.wav", np.zeros((4, 0), np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_located(tmp_path, value):
    samples = noise(4, 3 * SAMPLE_RATE_HZ)
    samples[2, 2 * SAMPLE_RATE_HZ] = value
    path = wav(tmp_path / "bad.wav", samples)
    with pytest.raises(AudioFormatError, match=r"bad\.wav: NaN or infinite sample at 2\.000 s"):
        read_foa(path)
    with pytest.raises(AudioFormatError, match=r"bad\.wav: NaN"):
        list(stream_windows(path, window_s=1.0, hop_s=1.0))


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_truncated_files_are_refused(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    soundfile.write(whole, noise(4, 60 * SAMPLE_RATE_HZ).T * 0.9, SAMPLE_RATE_HZ)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(AudioFormatError, match=rf"cut\.{suffix}: (damaged|truncated)"):
        read_foa(cut)


def test_truncated_wav_is_refused(tmp_path):
    whole = wav(tmp_path / "whole.wav", noise(4, 48_000), subtype="PCM_16")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(AudioFormatError, match=r"cut\.wav: (damaged|truncated)"):
        read_foa(cut)


@pytest.mark.parametrize(("suffix", "container"), [("rf64", "RF64"), ("w64", "W64"), ("aiff", "AIFF"), ("caf", "CAF")])
def test_truncated_large_containers_are_refused(tmp_path, suffix, container):
    whole = tmp_path / f"whole.{suffix}"
    samples = noise(4, 24_000)
    soundfile.write(whole, samples.T, SAMPLE_RATE_HZ, format=container, subtype="FLOAT")
    np.testing.assert_array_equal(read_foa(whole), samples)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(AudioFormatError, match=rf"cut\.{suffix}: (truncated|not a readable audio file)"):
        read_foa(cut)


def test_truncated_mp3_is_refused(tmp_path):
    whole = tmp_path / "whole.mp3"
    soundfile.write(whole, noise(1, 20 * SAMPLE_RATE_HZ)[0], SAMPLE_RATE_HZ)
    assert read_mono(whole).shape == (20 * SAMPLE_RATE_HZ,)
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(AudioFormatError, match=r"cut\.mp3: truncated: the header promises 480000 samples"):
        read_mono(cut)


def test_mp3_with_a_tag_in_front_is_complete_and_truncation_still_seen(tmp_path):
    plain = tmp_path / "plain.mp3"
    soundfile.write(plain, noise(1, 20 * SAMPLE_RATE_HZ)[0], SAMPLE_RATE_HZ)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 10]) + bytes(2 * 128 + 10)  # lengths are of seven-bit bytes
    tagged = tmp_path / "tagged.mp3"
    tagged.write_bytes(tag + plain.read_bytes())
    np.testing.assert_array_equal(read_mono(tagged), read_mono(plain))
    tagged.write_bytes(tagged.read_bytes()[: plain.stat().st_size // 2])
    with pytest.raises(AudioFormatError, match=r"tagged\.mp3: truncated"):
        read_mono(tagged)


def test_flac_that_does_not_know_its_length_is_refused(tmp_path):
    path = tmp_path / "stream.flac"
    soundfile.write(path, noise(4, 24_000).T, SAMPLE_RATE_HZ)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: the total number of samples takes 36 bits, 0 says unknown
    content[22:26] = bytes(4)
    path.write_bytes(bytes(content))
    with pytest.raises(AudioFormatError, match=r"stream\.flac: the header does not say how long it is .* rewrite it"):
        audio_info(path)


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path):
    samples = noise(4, 24_000)
    path = wav(tmp_path / "stream.wav", samples)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = content[4:8] = b"\xff" * 4
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(read_foa(path), samples)


def test_names_that_no_file_can_have():
    with pytest.raises(AudioFormatError, match="not a file name"):
        read_foa("a\0b.wav")
    with pytest.raises(AudioFormatError, match=r"cannot be read .* check path"):
        read_foa("a" * 5_000 + ".wav")


def test_one_sample_and_silence(tmp_path):
    for rate in (8_000, SAMPLE_RATE_HZ, 192_000):
        assert read_foa(wav(tmp_path / "one.wav", noise(4, 1), rate)).shape[1] >= 1
    silence = read_foa(wav(tmp_path / "silence.wav", np.zeros((4, 48_000), np.float32), 48_000))
    assert silence.shape == (4, SAMPLE_RATE_HZ)
    assert not silence.any()


@pytest.mark.parametrize("duration_s", [0.5, 10.0, 10.5, 15.0, 47.3, 180.0])
def test_windows_of_a_file_are_those_of_its_array(tmp_path, duration_s):
    samples = noise(4, round(duration_s * SAMPLE_RATE_HZ))
    streamed = list(stream_windows(wav(tmp_path / "a.wav", samples)))
    sliced = list(array_windows(samples))
    assert len(streamed) == len(sliced) > 0
    for first, second in zip(streamed, sliced, strict=True):
        assert (first.start_s, first.end_s) == (second.start_s, second.end_s)
        np.testing.assert_array_equal(first.samples, second.samples)
    assert streamed[-1].end_s == pytest.approx(duration_s)


def test_a_three_minute_recording_has_windows_every_five_seconds(tmp_path):
    windows = list(stream_windows(wav(tmp_path / "a.wav", noise(4, 180 * 8_000), 8_000)))
    assert [window.start_s for window in windows] == list(range(0, 175, 5))
    assert all(window.end_s - window.start_s == 10.0 for window in windows)


def test_streamed_resampling_equals_resampling_the_whole(tmp_path):
    path = wav(tmp_path / "a.wav", noise(4, 65 * 44_100), 44_100)
    whole = read_foa(path)
    for window in stream_windows(path):
        start = round(window.start_s * SAMPLE_RATE_HZ)
        np.testing.assert_array_equal(window.samples, whole[:, start : start + window.samples.shape[1]])


def test_a_long_file_is_streamed_in_bounded_memory(tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8_000, 4) as file:
        for _ in range(60):
            file.write(np.zeros((60 * 8_000, 4), np.float32))
    tracemalloc.start()
    count = sum(1 for _ in stream_windows(path, hop_s=10.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 360
    assert peak < 60e6, f"peak {peak / 1e6:.0f} MB; the hour at 24 kHz takes 1,382 MB"


def test_window_starts_cover_everything_once():
    for length in range(1, 60):
        starts = window_starts(length, 10, 4)
        assert starts[0] == 0
        assert starts[-1] + 10 >= length
        assert len(starts) == 1 or starts[-2] + 10 < length


def test_hop_longer_than_window_is_refused():
    with pytest.raises(AudioFormatError, match="0 < hop <= window"):
        list(array_windows(noise(4, 100), window_s=1.0, hop_s=2.0))


def test_fit_window_repeats_whole_copies_then_pads():
    fitted = fit_window(np.array([[1.0, 2.0, 3.0]], np.float32), 8)
    np.testing.assert_array_equal(fitted, [[1, 2, 3, 1, 2, 3, 0, 0]])
    np.testing.assert_array_equal(fit_window(fitted, 4), [[1, 2, 3, 1]])


def test_arrays_become_batches():
    samples = noise(4, 1_000)
    np.testing.assert_array_equal(validate_array(samples, SAMPLE_RATE_HZ), samples[None])
    assert validate_array(np.stack([samples, samples]), 48_000).shape == (2, 4, 500)
    assert validate_array(samples[0], SAMPLE_RATE_HZ, allow_mono=True).shape == (1, 1, 1_000)


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (noise(4, 10), None, "pass sample_rate"),
        (noise(4, 10), math.nan, "array input: sample rate nan Hz; expected at least 1000"),
        (noise(4, 10), math.inf, "array input: sample rate inf Hz"),
        (noise(4, 10), "24k", "array input: sample rate '24k' Hz"),
        (noise(4, 10).T, 24_000, r"shape \(10, 4\), which looks transposed; pass array\.T"),
        ([[0.1, 0.2], [0.1]], 24_000, "rows of different lengths"),
        (np.full((4, 10), 1e300), 24_000, "NaN or infinite"),
        (np.zeros((0, 4, 10), np.float32), 24_000, r"no samples \(shape \(0, 4, 10\)\)"),
        (noise(2, 10), 24_000, "expected 4 FOA channels .* got 2"),
        (noise(4, 0), 24_000, "no samples"),
        (np.full((4, 10), np.nan, np.float32), 24_000, r"NaN .* at 0\.000 s \(recording 0, channel 0\)"),
        (np.zeros((4, 10), np.int16), 24_000, "expected floating-point samples .* got int16"),
        (np.zeros((1, 1, 4, 10), np.float32), 24_000, r"got shape \(1, 1, 4, 10\)"),
    ],
)
def test_bad_arrays(array, rate, message):
    with pytest.raises(AudioFormatError, match=message):
        validate_array(array, rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_are_read_like_arrays(dtype):
    tensor = torch.linspace(-0.5, 0.5, 400).reshape(4, 100).to(dtype).requires_grad_()
    read = validate_array(tensor, SAMPLE_RATE_HZ)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read[0], tensor.detach().float().numpy())


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_an_array_and_its_file_give_the_same_samples(tmp_path, rate):
    samples = noise(4, 45 * rate)  # three blocks of the file
    from_file = read_foa(wav(tmp_path / "a.wav", samples, rate))
    np.testing.assert_array_equal(validate_array(samples, rate)[0], from_file)


def test_rates_and_windows_that_mean_nothing(tmp_path):
    path = wav(tmp_path / "a.wav", noise(4, 100))
    with pytest.raises(AudioFormatError, match="the wanted rate: sample rate 0 Hz"):
        read_foa(path, sample_rate=0)
    with pytest.raises(AudioFormatError, match="the wanted rate: sample rate -1 Hz"):
        read_mono(path, -1)
    with pytest.raises(AudioFormatError, match="a window of nan s"):
        list(stream_windows(path, window_s=math.nan))
    with pytest.raises(AudioFormatError, match="no samples to fill a window with"):
        fit_window(np.zeros((4, 0), np.float32), 10)


def test_written_files_have_the_usual_rights(tmp_path):
    (tmp_path / "usual").touch()
    write_foa(tmp_path / "a.flac", noise(4, 100))
    assert (tmp_path / "a.flac").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_written_files_read_back(tmp_path):
    samples = noise(4, 2_000)
    for name, subtype, bound in (("a.flac", "PCM_24", 1e-6), ("a.wav", "PCM_16", 1e-4)):
        write_foa(tmp_path / name, samples, subtype=subtype)
        np.testing.assert_allclose(read_foa(tmp_path / name), samples, atol=bound)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.flac", "a.wav"]


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(AudioFormatError, match="beyond full scale"):
        write_foa(tmp_path / "loud.wav", noise(4, 10) * 10)
    with pytest.raises(AudioFormatError, match=r"a\.xyz: cannot be written"):
        write_foa(tmp_path / "a.xyz", noise(4, 10))
    with pytest.raises(AudioFormatError, match=r"no/a\.wav: cannot be written .* check the folder"):
        write_foa(tmp_path / "no" / "a.wav", noise(4, 10))
    assert not list(tmp_path.iterdir())


def test_header_information(tmp_path):
    info = audio_info(wav(tmp_path / "a.wav", noise(4, 96_000), 48_000))
    assert (info.sample_rate_hz, info.channels, info.duration_s, info.format) == (48_000, 4, 2.0, "WAV FLOAT")
