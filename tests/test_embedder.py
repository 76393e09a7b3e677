import dataclasses

import numpy as np
import pytest
import soundfile
import torch

import salm
from salm.embedder import Embedder
from salm.errors import AudioFormatError, CheckpointError, ConfigError, DirectionError, SalmError
from salm.geometry import SECTORS, azimuth_elevation, direction_prompt

RATE = 24_000


@pytest.fixture(scope="module")
def files(make_scene, tmp_path_factory):
    """Five recordings of different lengths."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = []
    for number, duration_s in enumerate((0.7, 3.0, 10.0, 12.0, 23.5)):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], make_scene(duration_s, 40.0 * number, number).T, RATE, subtype="FLOAT")
    return paths


def test_the_same_file_gives_the_same_bits(tiny, files):
    np.testing.assert_array_equal(tiny.encode_audio(files[1]), tiny.encode_audio(files[1]))


@pytest.mark.parametrize("embedding", ["joint", "semantic", "spatial"])
def test_a_vector_does_not_depend_on_its_batch(tiny, files, embedding):
    alone = np.concatenate([tiny.encode_audio(path, embedding=embedding) for path in files])
    together = tiny.encode_audio(files, embedding=embedding, batch_size=3)
    backwards = tiny.encode_audio(files[::-1], embedding=embedding)[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6, rtol=0)
    np.testing.assert_allclose(backwards, alone, atol=1e-6, rtol=0)
    assert np.abs(alone[0] - alone[1]).max() > 1e-4


def test_shapes_and_norms(tiny, files):
    vectors = tiny.encode_audio(files)
    assert vectors.shape == (5, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert tiny.encode_audio(files[0]).shape == (1, 512)
    assert tiny.encode_audio([]).shape == (0, 512)
    assert isinstance(tiny.encode_audio(files[0], convert_to_tensor=True), torch.Tensor)
    raw = tiny.encode_audio(files, normalize_embeddings=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), vectors, atol=1e-6)


def test_arrays_and_tensors_equal_files(tiny, files):
    samples = soundfile.read(files[1], dtype="float32")[0].T
    expected = tiny.encode_audio(files[1])
    np.testing.assert_array_equal(tiny.encode_audio(samples, sample_rate=RATE), expected)
    np.testing.assert_array_equal(tiny.encode_audio(torch.from_numpy(samples), sample_rate=RATE), expected)
    both = tiny.encode_audio(np.stack([samples, -samples]), sample_rate=RATE)
    np.testing.assert_allclose(both, np.repeat(expected, 2, axis=0), atol=1e-6)  # polarity is not heard
    with pytest.raises(AudioFormatError, match="pass sample_rate"):
        tiny.encode_audio(samples)


def test_a_long_recording_is_the_mean_of_its_windows(tiny, files):
    (windows,) = tiny.encode_audio(files[4], windows=True, normalize_embeddings=False)
    np.testing.assert_array_equal(windows.start_s, [0, 5, 10, 15])
    np.testing.assert_array_equal(windows.end_s, [10, 20 - 5, 20, 23.5])
    mean = windows.embeddings.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(tiny.encode_audio(files[4], normalize_embeddings=False), mean, atol=1e-6)


def test_three_minutes_have_windows_at_the_right_times(tiny, make_scene, tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, make_scene(180.0).T, RATE)
    encoded = list(tiny.encode_windows(path))
    assert [window.start_s for window in encoded] == list(range(0, 175, 5))
    assert all(window.end_s == window.start_s + 10 for window in encoded)
    (windows,) = tiny.encode_audio(path, windows=True)
    np.testing.assert_allclose(windows.embeddings, [window.joint for window in encoded], atol=1e-6)
    piece = soundfile.read(path, start=15 * RATE, stop=25 * RATE, dtype="float32")[0].T
    np.testing.assert_allclose(tiny.encode_audio(piece, sample_rate=RATE)[0], encoded[3].joint, atol=1e-6)


def test_short_recordings_are_repeated_then_padded(tiny, make_scene):
    scene = make_scene(3.0)
    filled = np.concatenate([scene, scene, scene, np.zeros((4, RATE), np.float32)], axis=1)
    np.testing.assert_allclose(
        tiny.encode_audio(scene, sample_rate=RATE), tiny.encode_audio(filled, sample_rate=RATE), atol=1e-6
    )


def test_joint_is_semantic_plus_weighted_spatial(tiny, files):
    parts = tiny.encode_audio_parts(files)
    weight = tiny.checkpoint.model.spatial_weight.detach().numpy()
    np.testing.assert_allclose(parts.joint, parts.semantic + weight * parts.spatial, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(parts.doa, axis=1), 1.0, atol=1e-6)
    for name in ("semantic", "spatial", "joint"):
        unit = getattr(parts, name) / np.linalg.norm(getattr(parts, name), axis=1, keepdims=True)
        np.testing.assert_allclose(unit, tiny.encode_audio(files, embedding=name), atol=1e-6)


def test_parts_are_arrays_or_tensors(tiny, files):
    arrays, tensors = tiny.encode_audio_parts(files[:2]), tiny.encode_audio_parts(files[:2], convert_to_tensor=True)
    for name, width in {"semantic": 512, "spatial": 512, "joint": 512, "doa": 3}.items():
        assert getattr(arrays, name).shape == (2, width)
        assert getattr(arrays, name).dtype == np.float32
        assert not getattr(tensors, name).is_inference()
        np.testing.assert_array_equal(getattr(tensors, name).numpy(), getattr(arrays, name))
    assert tiny.encode_audio_parts([]).doa.shape == (0, 3)


def test_editing_follows_equation_3(tiny, files):
    parts = tiny.encode_audio_parts(files)
    edited = tiny.edit_direction(parts, "southwest", normalize_embeddings=False)
    prompt = tiny.encode_text(direction_prompt(SECTORS[3]), normalize_embeddings=False)
    weight = tiny.checkpoint.model.spatial_weight.detach().numpy()
    length = np.linalg.norm(parts.spatial, axis=1, keepdims=True) / np.linalg.norm(prompt)
    np.testing.assert_allclose(edited, parts.semantic + weight * length * prompt, rtol=1e-4, atol=1e-5)
    tensors = tiny.encode_audio_parts(files, convert_to_tensor=True)
    again = tiny.edit_direction(tensors, "southwest", convert_to_tensor=True)
    np.testing.assert_allclose(again.numpy(), edited / np.linalg.norm(edited, axis=1, keepdims=True), atol=1e-6)


def test_editing_takes_words_phrases_and_sentences(tiny, files):
    parts = tiny.encode_audio_parts(files[0])
    southwest = tiny.edit_direction(parts, "southwest")
    for text in ("back left", "to the south-west", direction_prompt(SECTORS[3])):
        np.testing.assert_allclose(tiny.edit_direction(parts, text), southwest, atol=1e-6)
    above = tiny.edit_direction(parts, "The sound is coming from above.", normalize_embeddings=False)
    sentence = tiny.encode_text("The sound is coming from above.", normalize_embeddings=False)
    length = np.linalg.norm(parts.spatial) / np.linalg.norm(sentence)
    weight = tiny.checkpoint.model.spatial_weight.detach().numpy()
    np.testing.assert_allclose(above, parts.semantic + weight * length * sentence, rtol=1e-4, atol=1e-5)
    for text in ("somewhere", ""):
        with pytest.raises(DirectionError, match=f"no direction in '{text}'"):
            tiny.edit_direction(parts, text)


def test_mono_has_a_meaning_but_no_direction(tiny, make_scene, tmp_path):
    path = tmp_path / "mono.wav"
    soundfile.write(path, make_scene(2.0)[0], RATE)
    assert tiny.encode_audio(path, embedding="semantic").shape == (1, 512)
    for embedding in ("joint", "spatial"):
        with pytest.raises(AudioFormatError, match=r"mono\.wav: expected 4 FOA channels .* embedding='semantic'"):
            tiny.encode_audio(path, embedding=embedding)
    for method in (
        tiny.localize,
        tiny.classify_direction,
        tiny.encode_audio_parts,
        lambda x: list(tiny.encode_windows(x)),
    ):
        with pytest.raises(AudioFormatError, match="expected 4 FOA channels"):
            method(path)
    with pytest.raises(ConfigError, match="'semantic'; expected one of joint, spatial"):
        tiny.classify_direction(path, embedding="semantic")


def test_mono_and_foa_in_one_list(tiny, make_scene):
    scene = make_scene(2.0)
    mixed = [scene, scene[:1], scene]
    vectors = tiny.encode_audio(mixed, sample_rate=RATE, embedding="semantic")
    alone = [tiny.encode_audio(item, sample_rate=RATE, embedding="semantic")[0] for item in mixed]
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-6


@pytest.mark.parametrize("rate", [8_000, 192_000])
def test_extreme_rates(tiny, rate, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (rate, 4)), rate, subtype="FLOAT")
    vector = tiny.encode_audio(path)
    assert np.isfinite(vector).all()
    samples = soundfile.read(path, dtype="float32")[0].T
    np.testing.assert_allclose(tiny.encode_audio(samples, sample_rate=rate), vector, atol=1e-4)


def test_resampled_arrays_sound_the_same(tiny):
    def tone(rate):
        signal = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(10 * rate) / rate).astype(np.float32)
        noise = np.random.default_rng(0).normal(0, 1e-3, (4, 10 * rate)).astype(np.float32)
        return noise + np.stack([signal, signal, 0 * signal, 0 * signal])

    expected = tiny.encode_audio(tone(24_000), sample_rate=24_000)
    mistaken = tiny.encode_audio(tone(48_000), sample_rate=24_000)
    for rate in (48_000, 44_100):
        error = np.linalg.norm(tiny.encode_audio(tone(rate), sample_rate=rate) - expected)
        assert error < 0.3 * np.linalg.norm(mistaken - expected)


def test_bad_arrays_are_refused(tiny, make_scene):
    scene = make_scene(1.0)
    scene[2, 77] = np.nan
    with pytest.raises(AudioFormatError, match="NaN or infinite"):
        tiny.encode_audio(scene, sample_rate=RATE)
    with pytest.raises(AudioFormatError, match="expected 4 FOA channels .* got 2"):
        tiny.encode_audio(scene[:2], sample_rate=RATE)
    with pytest.raises(AudioFormatError, match=r"nothing\.wav: no such file"):
        tiny.encode_audio("nothing.wav")


def test_one_sample_and_digital_silence(tiny):
    for samples in (np.full((4, 1), 0.5, np.float32), np.zeros((4, 2 * RATE), np.float32)):
        vector = tiny.encode_audio(samples, sample_rate=RATE)
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_text_does_not_depend_on_its_batch(tiny):
    texts = ["rain", "dog barking from the northwest", "the sound is coming from the southeast", "left"]
    alone = np.concatenate([tiny.encode_text(text) for text in texts])
    np.testing.assert_allclose(tiny.encode_text(texts), alone, atol=1e-6, rtol=0)
    np.testing.assert_allclose(tiny.encode_text(texts, batch_size=2), alone, atol=1e-6, rtol=0)
    assert alone.shape == (4, 512)
    assert tiny.encode_text([]).shape == (0, 512)


def test_abbreviated_directions_are_those_in_words(tiny):
    short, long = (tiny.encode_text(f"dog barking {words}") for words in ("at 10 o'clock", "from the northwest"))
    np.testing.assert_array_equal(short, long)
    assert not np.allclose(long, tiny.encode_text("dog barking from the east"))


def test_an_hour_is_edited_as_its_sectors_prompt(tiny, files):
    parts = tiny.encode_audio_parts(files[0])
    hour, word = (tiny.edit_direction(parts, direction) for direction in ("3 o'clock", "east"))
    np.testing.assert_array_equal(hour, word)


@pytest.mark.parametrize("text", ["", "   ", 3])
def test_no_sentence_is_refused(tiny, text):
    with pytest.raises(SalmError, match="text 0: expected a sentence"):
        tiny.encode_text([text])


def test_directions_of_one_and_of_many(tiny, files):
    one, many = tiny.classify_direction(files[0]), tiny.classify_direction(files[:2])
    assert (one.label, one.azimuth_deg) == (many[0].label, many[0].azimuth_deg)
    assert one.probabilities == pytest.approx(many[0].probabilities, abs=1e-6)
    assert len(many) == 2
    assert one.label in one.probabilities
    assert one.probabilities[one.label] == max(one.probabilities.values())
    assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    place = tiny.localize(files[0])
    assert -180 < place.azimuth_deg <= 180
    assert -90 <= place.elevation_deg <= 90
    assert tiny.localize(files[:2])[0].azimuth_deg == pytest.approx(place.azimuth_deg, abs=0.01)


def test_directions_are_the_softmax_and_the_head(tiny, files):
    one = tiny.classify_direction(files[0], embedding="spatial")
    prompts = tiny.encode_text([direction_prompt(sector) for sector in SECTORS])
    logits = tiny.checkpoint.model.log_temperature.exp().item() * tiny.encode_audio(files[0], embedding="spatial")[0]
    powers = np.exp(prompts @ logits)
    np.testing.assert_allclose(list(one.probabilities.values()), powers / powers.sum(), rtol=1e-5)
    assert one.azimuth_deg == {sector.compass: sector.azimuth_deg for sector in SECTORS}[one.label]
    azimuth, elevation = np.degrees(azimuth_elevation(tiny.encode_audio_parts(files[0]).doa[0]))
    place = tiny.localize(files[0])
    assert (place.azimuth_deg, place.elevation_deg) == pytest.approx((azimuth, elevation), abs=1e-3)
    assert tiny.classify_direction([]) == tiny.localize([]) == []


def test_files_that_share_a_batch_are_encoded_as_alone(tiny, files):
    together = dict(tiny.encode_recordings(files, batch_size=4))
    assert list(together) == files
    for path, windows in together.items():
        alone = list(tiny.encode_windows(path))
        assert [(w.start_s, w.end_s) for w in windows] == [(w.start_s, w.end_s) for w in alone]
        for name in ("joint", "semantic", "spatial"):
            np.testing.assert_allclose(
                [getattr(w, name) for w in windows], [getattr(w, name) for w in alone], atol=1e-6
            )


def test_a_damaged_file_is_left_out_whole(tiny, files, make_scene, tmp_path):
    bad = tmp_path / "bad.wav"
    scene = make_scene(45.0)
    scene[0, -100] = np.inf  # noticed only after windows before it were given out
    soundfile.write(bad, scene.T, RATE, subtype="FLOAT")
    missing = tmp_path / "missing.wav"
    errors = {}
    found = list(
        tiny.encode_recordings([files[0], bad, files[3], missing, files[1]], on_error=errors.__setitem__, batch_size=2)
    )
    assert [path for path, _ in found] == [files[0], files[3], files[1]]
    assert [len(windows) for _, windows in found] == [1, 2, 1]
    assert list(errors) == [bad, missing]
    assert "bad.wav: " in str(errors[bad])
    with pytest.raises(AudioFormatError, match="missing.wav"):
        list(tiny.encode_recordings([files[0], missing]))


def test_windows_are_of_one_recording(tiny, files):
    with pytest.raises(ConfigError, match="takes one recording, got 2"):
        tiny.encode_windows(files[:2])


def test_windows_read_no_further_than_asked(tiny, monkeypatch, files):
    read = []
    original = salm.window_encoder.fit_window
    monkeypatch.setattr("salm.window_encoder.fit_window", lambda *args: read.append(1) or original(*args))
    next(tiny.encode_windows(files[4], batch_size=2))
    assert len(read) == 2


def test_wrong_values_are_refused(tiny, files, tiny_checkpoint):
    with pytest.raises(ConfigError, match="'colour'; expected one of joint, semantic, spatial"):
        tiny.encode_audio(files[0], embedding="colour")
    with pytest.raises(ConfigError, match="windows longer than 10 s do not fit"):
        tiny.encode_audio(files[0], window_s=12.0, hop_s=6.0)
    with pytest.raises(ConfigError, match="batch_size of at least 1, got 0"):
        tiny.encode_audio(files[0], batch_size=0)
    with pytest.raises(ConfigError, match="batch_size of at least 1, got 0"):
        tiny.encode_text("rain", batch_size=0)
    with pytest.raises(ConfigError, match="unknown device 'toaster'"):
        salm.load(tiny_checkpoint, device="toaster")


def test_a_model_for_another_rate_is_refused(tiny):
    features = dataclasses.replace(tiny.checkpoint.config.features, sample_rate_hz=48_000)
    config = dataclasses.replace(tiny.checkpoint.config, features=features)
    with pytest.raises(CheckpointError, match="made for 48000 Hz"):
        Embedder(dataclasses.replace(tiny.checkpoint, config=config))


def test_encoding_changes_no_global_state(tiny_checkpoint, files):
    def state():
        switches = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
        return switches, torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist()

    before = state()
    model = salm.load(tiny_checkpoint, device="cpu")
    model.encode_text("rain")
    model.encode_audio(files[0])
    assert state() == before


def test_the_bar_is_on_stderr(tiny, files, capsys):
    tiny.encode_audio(files[:2], show_progress_bar=True)
    tiny.encode_text(["rain", "wind"], show_progress_bar=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("2/2") == 2
