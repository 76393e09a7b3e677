import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salm.audio.inspect import FULL_SCALE, convention_hint, inspect_recording
from salm.errors import AudioFormatError
from salm.geometry import foa_gains

RATE = 24_000


def field(
    num_waves: int = 40, seed: int = 0, elevation_rad: float = 0.3, duration_s: float = 2.0, level: float = 0.02
) -> np.ndarray:
    """Independent plane waves from all around, within `elevation_rad` of the horizon, as AmbiX (4, samples)."""
    generator = np.random.default_rng(seed)
    azimuth = generator.uniform(-math.pi, math.pi, num_waves)
    elevation = generator.uniform(-elevation_rad, elevation_rad, num_waves)
    signals = generator.standard_normal((num_waves, round(duration_s * RATE)))
    return level * foa_gains(azimuth, elevation).T @ signals


def as_fuma(ambix: np.ndarray) -> np.ndarray:
    w, y, z, x = ambix
    return np.stack([w / math.sqrt(2), x, y, z])


def written(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples.T, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_a_field_near_the_horizon_shows_its_convention(tmp_path, seed):
    ambix = field(seed=seed)
    report = inspect_recording(written(tmp_path / "ambix.wav", ambix))
    assert report.convention.looks_like == "ambix"
    assert not report.warnings
    report = inspect_recording(written(tmp_path / "fuma.wav", as_fuma(ambix)))
    assert report.convention.looks_like == "fuma"
    assert "channel 4 is the weakest dipole" in " ".join(report.convention.reasons)
    assert report.warnings == ("the channels look like FuMa (W, X, Y, Z): if they are, pass convention='fuma'",)


@pytest.mark.parametrize(("gain", "expected_db"), [(1.0, 0.0), (math.sqrt(2), 3.01), (math.sqrt(3), 4.77)])
@pytest.mark.parametrize("num_waves", [1, 2, 400])
def test_dipoles_carry_the_energy_of_w_times_the_square_of_their_gain(tmp_path, gain, expected_db, num_waves):
    foa = field(num_waves, elevation_rad=1.2, duration_s=8.0, level=0.005)
    foa[1:] *= gain
    hint = inspect_recording(written(tmp_path / "a.wav", foa)).convention
    assert hint.dipole_to_w_db == pytest.approx(expected_db, abs=0.3)


def test_n3d_gains_are_named(tmp_path):
    foa = field()
    foa[1:] *= math.sqrt(3)
    report = inspect_recording(written(tmp_path / "n3d.wav", foa))
    assert report.convention.looks_like == "unclear"
    assert any("divide Y, Z and X by the square root of 3" in warning for warning in report.warnings)


def test_contradicting_observations_are_unclear():
    ambix_gains_fuma_order = np.diag([1.0, 0.5, 0.45, 0.05])
    assert convention_hint(ambix_gains_fuma_order).looks_like == "unclear"
    assert convention_hint(np.diag([1.0, 9.0, 9.0, 0.5])).looks_like == "unclear"
    assert convention_hint(np.zeros((4, 4))).reasons == ("no sound in the channels that would tell",)


def test_hint_does_not_depend_on_the_level(tmp_path):
    loud = inspect_recording(written(tmp_path / "a.wav", field(level=0.02))).convention
    quiet = inspect_recording(written(tmp_path / "b.wav", field(level=0.0002))).convention
    assert loud.dipole_to_w_db == pytest.approx(quiet.dipole_to_w_db, abs=0.01)
    assert loud.looks_like == quiet.looks_like == "ambix"


def test_levels_of_a_sine_in_closed_form(tmp_path):
    time = np.arange(RATE) / RATE
    sine = np.sin(2 * math.pi * 1_000 * time)
    foa = np.stack([0.5 * sine, 0.25 * sine, 0.05 * sine, 0.4 * sine])
    report = inspect_recording(written(tmp_path / "a.wav", foa))
    assert [channel.name for channel in report.channels] == ["W", "Y", "Z", "X"]
    for channel, gain in zip(report.channels, (0.5, 0.25, 0.05, 0.4), strict=True):
        assert channel.peak_dbfs == pytest.approx(20 * math.log10(gain), abs=0.01)
        assert channel.rms_dbfs == pytest.approx(20 * math.log10(gain / math.sqrt(2)), abs=0.01)
        assert channel.dc_offset == pytest.approx(0.0, abs=1e-6)
        assert channel.clipped_samples == 0


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (0, "channel 1 (W) is silent: nothing can be encoded"),
        (1, "channel 2 (Y) is silent: left and right cannot"),
        (2, "channel 3 (Z) is silent: elevation cannot"),
        (3, "channel 4 (X) is silent: front and back cannot"),
    ],
)
def test_a_silent_channel_says_what_is_lost(tmp_path, index, message):
    foa = field()
    foa[index] = 0
    report = inspect_recording(written(tmp_path / "a.wav", foa))
    assert [channel.silent for channel in report.channels] == [number == index for number in range(4)]
    assert report.channels[index].peak_dbfs is None
    assert any(warning.startswith(message) for warning in report.warnings), report.warnings


def test_clipping_needs_two_samples_in_a_row(tmp_path):
    foa = np.clip(field(), -0.5, 0.5)
    foa[1, 100] = FULL_SCALE
    assert inspect_recording(written(tmp_path / "peak.wav", foa)).channels[1].clipped_samples == 0
    foa[1, 200:205] = 1.0
    report = inspect_recording(written(tmp_path / "flat.wav", foa))
    assert [channel.clipped_samples for channel in report.channels] == [0, 4, 0, 0]
    assert any("channel 2 (Y) clips: record at a lower level" in warning for warning in report.warnings)


def test_dc_offset(tmp_path):
    foa = field()
    foa[2] += 0.1
    report = inspect_recording(written(tmp_path / "a.wav", foa))
    assert report.channels[2].dc_offset == pytest.approx(0.1, abs=0.005)
    assert any("channel 3 (Z) has a DC offset of +0.1" in warning for warning in report.warnings)


def test_a_mono_sound_copied_to_four_channels_has_no_direction(tmp_path):
    report = inspect_recording(written(tmp_path / "a.wav", np.tile(field()[:1], (4, 1))))
    assert any("all four channels are the same" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("channels", "usable", "warning"),
    [
        (1, "semantic embedding only", "encode it with embedding='semantic'"),
        (2, "no", "export as first-order AmbiX"),
        (3, "no", "export as first-order AmbiX"),
        (16, "no", "perhaps higher-order AmbiX; keep the first 4"),
    ],
)
def test_other_channel_counts_are_reported(tmp_path, channels, usable, warning):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, RATE))
    report = inspect_recording(written(tmp_path / "a.wav", samples))
    assert (report.num_channels, report.usable, report.convention) == (channels, usable, None)
    assert warning in " ".join(report.warnings)
    assert [channel.name for channel in report.channels] == [str(number + 1) for number in range(channels)]


def test_silence_low_rate_and_shortness_are_reported(tmp_path):
    report = inspect_recording(written(tmp_path / "a.wav", np.zeros((4, 1)), rate=8_000, subtype="PCM_16"))
    text = " ".join(report.warnings)
    assert "digital silence" in text
    assert "nothing above 4 kHz" in text
    assert "repeated to fill" in text
    assert report.convention.looks_like == "unclear"


def test_quiet_recordings_are_reported(tmp_path):
    report = inspect_recording(written(tmp_path / "a.wav", field(level=1e-5)))
    assert "very quiet" in " ".join(report.warnings)


def test_header_and_json(tmp_path):
    foa = field()
    foa[2] = 0
    path = written(tmp_path / "a.wav", foa, rate=48_000)
    plain = json.loads(json.dumps(inspect_recording(path).as_dict(), allow_nan=False))
    assert (plain["path"], plain["format"], plain["sample_rate_hz"]) == (str(path), "WAV FLOAT", 48_000)
    assert plain["duration_s"] == pytest.approx(1.0)
    assert [channel["silent"] for channel in plain["channels"]] == [False, False, True, False]
    assert plain["convention"]["reasons"]


def test_blocks_do_not_change_the_report(tmp_path):
    short = field(duration_s=2.0)
    once = inspect_recording(written(tmp_path / "a.wav", short))
    often = inspect_recording(written(tmp_path / "b.wav", np.tile(short, (1, 12))))  # 24 s: two blocks
    for first, second in zip(once.channels, often.channels, strict=True):
        assert first.rms_dbfs == pytest.approx(second.rms_dbfs, abs=0.01)
        assert first.peak_dbfs == second.peak_dbfs
    assert once.convention.dipole_to_w_db == pytest.approx(often.convention.dipole_to_w_db, abs=0.05)


def test_unreadable_files_raise(tmp_path):
    foa = field()
    foa[3, 1_200] = np.nan
    with pytest.raises(AudioFormatError, match=r"bad\.wav: NaN or infinite sample at 0\.050 s"):
        inspect_recording(written(tmp_path / "bad.wav", foa))
    with pytest.raises(AudioFormatError, match=r"none\.wav: no such file"):
        inspect_recording(tmp_path / "none.wav")
