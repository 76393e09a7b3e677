import dataclasses
import json

import pytest

from salm.config import AudioEncoderConfig, FeatureConfig, ModelConfig, TextEncoderConfig, from_mapping, to_mapping
from salm.errors import ConfigError
from salm.models.builders import SIZES, named_config


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_survive_json(name):
    config = named_config(name)
    document = json.loads(json.dumps(to_mapping(config)))
    assert from_mapping(ModelConfig, document, "config.json") == config
    assert config.name == name


def test_missing_keys_are_the_defaults():
    assert from_mapping(ModelConfig, {}, "here") == ModelConfig()
    shallow = from_mapping(ModelConfig, {"audio": {"width": 48}}, "here")
    assert shallow.audio == AudioEncoderConfig(width=48)


def test_lists_become_tuples_at_every_level():
    audio = from_mapping(ModelConfig, {"audio": {"depths": [1, 1], "num_heads": [2, 2]}}, "here").audio
    assert (audio.depths, audio.num_heads) == ((1, 1), (2, 2))
    assert hash(audio)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": 1, "sound": 2}, "^here: unknown keys colour, sound; known are name, embedding_width"),
        ({"audio": {"widht": 8}}, r"^here\.audio: unknown keys widht; known are width, depths"),
        ({"audio": 8}, r"^here\.audio: expected a mapping, got 8"),
        ({"embedding_width": 0}, r"model\.embedding_width: expected a positive whole number, got 0"),
        ({"text": {"width": 30, "num_heads": 4}}, "text: width 30 is not a multiple of 4 heads"),
        ({"text": {"dropout": 1.0}}, r"text\.dropout: expected a value in \[0, 1\), got 1\.0"),
        ({"text": {"hidden_width": 0}}, r"text\.hidden_width: expected a positive whole number, got 0"),
        ({"audio": {"depths": [2, 2]}}, "audio: 2 depths but 4 head counts"),
        ({"audio": {"depths": [2, 2, 0, 2]}}, r"audio\.depths: expected a positive whole number, got 0"),
        ({"features": {"hop_samples": -1}}, r"features\.hop_samples: expected a positive whole number, got -1"),
        ({"features": {"hop_samples": "many"}}, r"features\.hop_samples: expected a positive whole number, got 'many'"),
        ({"embedding_width": 512.5}, r"model\.embedding_width: expected a positive whole number, got 512\.5"),
        ({"audio": {"width": True}}, r"audio\.width: expected a positive whole number, got True"),
        ({"audio": {"depths": 2}}, r"audio\.depths: expected a list of whole numbers, got 2"),
        ({"text": {"dropout": -0.1}}, r"text\.dropout: expected a positive number, got -0\.1"),
        ({"features": {"clip_s": float("inf")}}, r"features\.clip_s: expected a positive number, got inf"),
        ({"features": {"max_frequency_hz": 12_001.0}}, "do not fit below half the sample rate"),
        ({"features": {"min_frequency_hz": 12_000.0}}, "do not fit below half the sample rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(ModelConfig, values, "here")


@pytest.mark.parametrize("kind", [FeatureConfig, AudioEncoderConfig, TextEncoderConfig, ModelConfig])
def test_configurations_are_frozen(kind):
    config = kind()
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, getattr(config, name))


def test_the_defaults_are_the_papers():
    features = FeatureConfig()
    assert (features.clip_samples, features.num_frames) == (240_000, 1001)
    assert ModelConfig().embedding_width == 512
    assert ModelConfig().audio.depths == (2, 2, 6, 2)
