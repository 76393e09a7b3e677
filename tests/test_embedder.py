import numpy as np
import pytest
import soundfile
import torch

import salm
from salm.errors import AudioFormatError, ConfigError, DirectionError, SalmError
from salm.geometry import SECTORS, direction_prompt
from salm.models.salm import AudioParts

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
    weight = tiny.checkpoint.model.spatial_weight.detach()
    torch.testing.assert_close(parts.joint, parts.semantic + weight * parts.spatial)
    torch.testing.assert_close(parts.doa.norm(dim=-1), torch.ones(5))
    np.testing.assert_allclose(
        torch.nn.functional.normalize(parts.joint, dim=-1).numpy(), tiny.encode_audio(files), atol=1e-6
    )


def test_editing_follows_equation_3(tiny, files):
    parts = tiny.encode_audio_parts(files)
    edited = tiny.edit_direction(parts, "southwest", normalize_embeddings=False)
    prompt = tiny.encode_text(direction_prompt(SECTORS[3]), normalize_embeddings=False)
    weight = tiny.checkpoint.model.spatial_weight.detach().numpy()
    length = np.linalg.norm(parts.spatial.numpy(), axis=1, keepdims=True) / np.linalg.norm(prompt)
    np.testing.assert_allclose(edited, parts.semantic.numpy() + weight * length * prompt, rtol=1e-4, atol=1e-5)
    with pytest.raises(DirectionError, match="no direction in 'somewhere'"):
        tiny.edit_direction(parts, "somewhere")


def test_mono_has_a_meaning_but_no_direction(tiny, make_scene, tmp_path):
    path = tmp_path / "mono.wav"
    soundfile.write(path, make_scene(2.0)[0], RATE)
    assert tiny.encode_audio(path, embedding="semantic").shape == (1, 512)
    for embedding in ("joint", "spatial"):
        with pytest.raises(AudioFormatError, match=r"mono\.wav: expected 4 FOA channels .* embedding='semantic'"):
            tiny.encode_audio(path, embedding=embedding)
    with pytest.raises(AudioFormatError, match="expected 4 FOA channels"):
        tiny.localize(path)


@pytest.mark.parametrize("rate", [8_000, 192_000])
def test_extreme_rates(tiny, rate, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (rate, 4)), rate)
    assert np.isfinite(tiny.encode_audio(path)).all()


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


@pytest.mark.parametrize("text", ["", "   ", 3])
def test_no_sentence_is_refused(tiny, text):
    with pytest.raises(SalmError, match="text 0: expected a sentence"):
        tiny.encode_text([text])


def test_directions_of_one_and_of_many(tiny, files):
    one, many = tiny.classify_direction(files[0]), tiny.classify_direction(files[:2])
    assert one == many[0]
    assert len(many) == 2
    assert one.label in one.probabilities
    assert one.probabilities[one.label] == max(one.probabilities.values())
    assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    place = tiny.localize(files[0])
    assert -180 < place.azimuth_deg <= 180
    assert -90 <= place.elevation_deg <= 90
    assert tiny.localize(files[:2])[0].azimuth_deg == pytest.approx(place.azimuth_deg, abs=0.01)


def test_unknown_embedding_and_long_windows_are_refused(tiny, files):
    with pytest.raises(ConfigError, match="'colour'; expected one of joint, semantic, spatial"):
        tiny.encode_audio(files[0], embedding="colour")
    with pytest.raises(ConfigError, match="windows longer than 10 s do not fit"):
        tiny.encode_audio(files[4], window_s=12.0, hop_s=6.0)


def test_loading_changes_no_global_state(tiny_checkpoint):
    before = torch.get_num_threads(), torch.random.get_rng_state(), torch.is_grad_enabled()
    salm.load(tiny_checkpoint).encode_text("rain")
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (before[0], before[2])


def test_parts_are_what_the_model_calls_parts(tiny, files):
    assert isinstance(tiny.encode_audio_parts(files[0]), AudioParts)
