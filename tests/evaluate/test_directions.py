"""Directions: perfect and guessing models, the intensity vector of plane waves, and the bins."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from salm.errors import AudioFormatError, ManifestError
from salm.evaluate.directions import (
    PLAIN_ESTIMATES,
    eight_way,
    evaluate_directions,
    intensity_directions,
    localisation_errors,
)
from salm.evaluate.scenes import directions, load_gallery
from salm.geometry import encode_plane_wave, rotation_about, unit_vector


def test_planted_model_is_right_everywhere(planted_gallery, planted):
    result = evaluate_directions(planted_gallery, planted, cache=False)
    for name in ("spatial", "joint"):
        scores = result.zero_shot[name]
        assert (scores.count, scores.count_away_from_borders) == (160, 120)
        assert scores.accuracy == scores.accuracy_away_from_borders == 1.0
        assert scores.confusion.tolist() == (20 * np.eye(8)).tolist()
    assert result.zero_shot["semantic"].accuracy == 1 / 8
    assert result.localisation["model"].all.p90_deg < 1e-3
    assert len(result.tables()) == 4


def test_guessing_model_is_at_chance(guessing_gallery, guessing):
    result = evaluate_directions(guessing_gallery, guessing, cache=False)
    assert result.zero_shot["joint"].accuracy == pytest.approx(1 / 8, abs=0.08)
    assert result.localisation["model"].all.median_deg == pytest.approx(90.0, abs=15.0)


@pytest.mark.parametrize("estimate", PLAIN_ESTIMATES)
def test_intensity_of_plane_waves_is_their_direction(planted_gallery, planted, estimate):
    errors = evaluate_directions(planted_gallery, planted, cache=False).localisation[estimate].all
    assert errors.count == 160
    assert errors.p90_deg < 0.1  # 24-bit files; above their noise nothing disturbs


def test_intensity_follows_its_definition(scenes, tmp_path):
    foa = np.random.default_rng(0).normal(0, 0.05, (4, 1536))
    foa[3] += 0.5 * foa[0]
    soundfile.write(tmp_path / "a.wav", foa.T, 24_000, subtype="DOUBLE")
    energy, unit = np.zeros(3), np.zeros(3)
    for start in (0, 512):
        w, y, z, x = (np.fft.fft(channel[start : start + 1024] * np.hanning(1024)) for channel in foa)
        for cell in range(5, 513):  # from 100 Hz to half the rate
            intensity = np.array([(np.conj(w[cell]) * other[cell]).real for other in (x, y, z)])
            energy += intensity
            unit += intensity / np.linalg.norm(intensity)
    found = intensity_directions([replace(scenes[0], path=tmp_path / "a.wav")])
    np.testing.assert_allclose(found["intensity"][0], energy / np.linalg.norm(energy), atol=1e-5)
    np.testing.assert_allclose(found["unit intensity"][0], unit / np.linalg.norm(unit), atol=1e-5)


def test_files_shorter_than_a_window_have_a_direction(scenes, tmp_path):
    soundfile.write(tmp_path / "a.wav", encode_plane_wave(np.hanning(50), 1.0, 0.2).T, 24_000, subtype="DOUBLE")
    found = intensity_directions([replace(scenes[0], path=tmp_path / "a.wav")])
    np.testing.assert_allclose(found["intensity"][0], unit_vector(1.0, 0.2), atol=1e-4)


def test_silence_is_refused_by_name(scenes, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros((480, 4)), 24_000)
    with pytest.raises(AudioFormatError, match=r"silent\.wav: .*silence"):
        intensity_directions([replace(scenes[0], path=tmp_path / "silent.wav")])


def test_errors_near_borders_are_left_out_of_the_second_accuracy():
    azimuth_rad = np.radians([0.0, 21.0, 45.0])
    scores = np.eye(8)[[0, 1, 1]]  # the source 1.5 degrees from the border is told to be beyond it
    result = eight_way(scores, azimuth_rad)
    assert result.accuracy == pytest.approx(2 / 3)
    assert (result.count_away_from_borders, result.accuracy_away_from_borders) == (2, 1.0)
    assert result.confusion[0, 1] == 1


def test_a_turned_estimate_has_the_angle_as_azimuth_error(scenes):
    turned = unit_vector(np.radians([s.sources[0].azimuth_deg + 12.0 for s in scenes]), np.radians(10.0))
    result = localisation_errors(turned, scenes)
    assert result.azimuth.median_deg == pytest.approx(12.0, abs=1e-6)
    assert 11.0 < result.all.median_deg < 12.0  # at 10 degrees of elevation the arc is shorter
    about_z = directions(scenes) @ rotation_about([0, 0, 1], np.radians(12.0)).T
    np.testing.assert_allclose(turned, about_z, atol=1e-12)


def test_bins_partition_the_scenes(scenes):
    result = localisation_errors(directions(scenes), scenes)
    assert set(result.bins) == {"RT60 (s)", "distance (m)", "SNR (dB)"}
    for bins in result.bins.values():
        assert sum(errors.count for errors in bins.values()) == len(scenes)
    expected = {"below 1": 32, "1 to 2": 32, "2 to 3": 32, "3 to 5": 64}
    assert {name: errors.count for name, errors in result.bins["distance (m)"].items()} == expected


def test_errors_over_the_azimuth_have_the_bins_of_the_true_one(scenes):
    edges_deg = (0.0, 7.4, 7.6, -7.6, 172.6, -172.4, 180.0, 90.0)
    some = [
        replace(s, sources=(replace(s.sources[0], azimuth_deg=a),)) for s, a in zip(scenes, edges_deg, strict=False)
    ]
    turned = unit_vector(np.radians(np.array(edges_deg) + 12.0), np.radians(10.0))
    found = localisation_errors(turned, some).by_azimuth
    assert {centre: errors.count for centre, errors in found.items()} == {-165: 1, -15: 1, 0: 2, 15: 1, 90: 1, 180: 2}
    assert list(found) == sorted(found)
    for errors in found.values():
        assert 11.0 < errors.median_deg < 12.0


def test_recordings_without_a_known_room_are_in_no_room_bin(scenes):
    real = [replace(scene, room=None, snr_db=None) for scene in scenes]
    assert set(localisation_errors(directions(real), real).bins) == {"distance (m)"}


def test_scenes_with_several_sources_are_left_out(planted, scenes, copied):
    both = replace(scenes[0], sources=(*scenes[0].sources, *scenes[45].sources))
    gallery = load_gallery(copied([both, *scenes[1:9]]), planted, cache=False)
    result = evaluate_directions(gallery, planted, cache=False)
    assert (result.num_left_out, result.zero_shot["joint"].count) == (1, 8)
    with pytest.raises(ManifestError, match=r"scenes\.jsonl: every scene has several sources"):
        evaluate_directions(load_gallery(copied([both]), planted, cache=False), planted, cache=False)
