from pathlib import Path

import numpy as np
import pytest
import torch

import salm
from salm.errors import ConfigError, DirectionError
from salm.queries import Query, query_vector, with_equal_parts
from tests.cli.commands import save_tiny_model, write_recording


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    loaded = salm.load(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=0))
    torch.nn.init.normal_(loaded.checkpoint.model.spatial_weight)
    return loaded


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("recordings") / "a.wav")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (Query("dog barking from the northwest"), "dog barking from the northwest"),
        (Query("dog barking from the northwest", direction="behind me"), "dog barking from the south"),
        (Query("dog barking", direction="left"), "dog barking from the west"),
        (Query("Dog barking from the northwest", part="what"), "Dog barking"),
        (Query("dog barking behind me", part="where"), "The sound is coming from the south."),
    ],
)
def test_what_a_sentence_is_searched_as(model, query, sentence):
    np.testing.assert_array_equal(query_vector(model, query), model.encode_text(sentence))


def test_what_a_recording_is_searched_as(model, recording):
    parts = model.encode_audio_parts(recording)
    vectors = {
        Query(like=recording): parts.joint,
        Query(like=recording, part="what"): parts.semantic,
        Query(like=recording, part="where"): parts.joint - parts.semantic,
    }
    for query, expected in vectors.items():
        np.testing.assert_allclose(query_vector(model, query), expected / np.linalg.norm(expected), atol=1e-6)


def test_a_recording_from_another_direction_is_equation_3_with_equal_parts(model, recording):
    parts = model.encode_audio_parts(recording)
    edited = model.edit_direction(parts, "southwest", normalize_embeddings=False)
    spatial = edited - parts.semantic
    (found,) = query_vector(model, Query(like=recording, direction="behind me on the left"))
    expected = parts.semantic / (parts.semantic**2).sum() + spatial / (spatial**2).sum()
    np.testing.assert_allclose(found, expected[0] / np.linalg.norm(expected), atol=1e-6)


def test_equal_parts_give_each_half_of_the_score():
    semantic, spatial = np.array([[8.0, 0.0, 0.0]]), np.array([[0.0, 2.0, 0.0]])
    (query,) = with_equal_parts(semantic, semantic + spatial)
    assert query @ semantic[0] == pytest.approx(query @ spatial[0])
    assert np.linalg.norm(query) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a sentence .* or a recording .*, got neither"),
        ({"text": "  "}, "got neither"),
        ({"text": "dog", "like": Path("a.wav")}, "got both"),
        ({"text": "dog", "direction": "west", "part": "what"}, "makes no sense where only 'what' counts"),
    ],
)
def test_queries_that_mean_nothing(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Query(**arguments)


def test_sentences_without_the_part_that_counts(model):
    with pytest.raises(ConfigError, match='"dog barking": names no direction'):
        query_vector(model, Query("dog barking", part="where"))
    with pytest.raises(ConfigError, match='"from the west": names no sound'):
        query_vector(model, Query("from the west", part="what"))
    with pytest.raises(DirectionError, match="no direction in 'upwards'"):
        query_vector(model, Query("dog barking", direction="upwards"))
