"""The text side in numpy gives what the model gives in torch."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import salm
from salm.cli.search import load_text_side
from salm.embedder import Embedder
from salm.errors import CheckpointError, SalmError
from salm.text.tokenizer import Tokenizer
from salm.weights.files import CONFIG_FILE, WEIGHTS_FILE
from salm.weights.sentence_encoder import SentenceEncoder

SENTENCES = [
    "dog barking from the NW",
    "a",
    "Church bell, at 3 o'clock.",
    "<pad> rain <mask>",
    "rain and dogs " * 60,
    "鳥 sings",
]


@pytest.fixture
def copied(tiny_checkpoint, tmp_path):
    """copied(change): a copy of the tiny checkpoint with changed weights."""

    def copy(change):
        folder = tmp_path / "copied"
        shutil.copytree(tiny_checkpoint, folder)
        weights = load_file(folder / WEIGHTS_FILE)
        change(weights)
        save_file(weights, folder / WEIGHTS_FILE)
        return folder

    return copy


@pytest.mark.parametrize("name", ["tiny", "salm-small"])
def test_vectors_are_the_models(name, tiny_checkpoint):
    place = tiny_checkpoint if name == "tiny" else name
    found, model = load_text_side(place), salm.load(place)
    assert isinstance(found, SentenceEncoder)
    assert found.model_id == model.model_id
    vectors = found.encode_text(SENTENCES)
    assert vectors.dtype == np.float32 and vectors.shape == (len(SENTENCES), model.embedding_width)
    np.testing.assert_allclose(vectors, model.encode_text(SENTENCES), atol=2e-6)
    assert (np.abs(vectors[0] - vectors[1:]).max(axis=1) > 1e-4).all()  # random weights tell little apart
    np.testing.assert_array_equal(found.encode_text(SENTENCES[0]), vectors[:1])
    assert found.encode_text([]).shape == (0, model.embedding_width)


def test_every_weight_counts(copied):
    """Fresh norms and biases would hide one that is left out."""

    def change(weights):
        generator = torch.Generator().manual_seed(0)
        for name, value in weights.items():
            if name.startswith("text_"):
                weights[name] = value + (0.2 * torch.randn(value.shape, generator=generator)).half()

    folder = copied(change)
    found, expected = load_text_side(folder).encode_text(SENTENCES), salm.load(folder).encode_text(SENTENCES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_that_numpy_cannot_read_go_to_the_model(copied):
    folder = copied(lambda weights: weights.update({name: value.bfloat16() for name, value in weights.items()}))
    assert isinstance(load_text_side(folder), Embedder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("text_projection.0.bias"), r"1 weights missing \['text_projection.0.bias'\]"),
        (lambda weights: weights.update({"text_encoder.x": torch.zeros(1)}), r"1 unknown \['text_encoder.x'\]"),
        (lambda weights: weights.update({"text_projection.2.bias": torch.zeros(3)}), r"2.bias has shape \(3,\), exp"),
    ],
)
def test_weights_that_do_not_fit_are_refused(copied, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_text_side(copied(change))


def test_damaged_checkpoints_are_refused(tiny_checkpoint, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged .*; copy or download it again"):
        load_text_side(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors; expected a SALM checkpoint folder"):
        load_text_side(folder)
    document = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(document | {"format_version": 99}))
    (folder / WEIGHTS_FILE).touch()
    with pytest.raises(CheckpointError, match="format version 99"):
        load_text_side(folder)
    with pytest.raises(CheckpointError, match="unknown model 'nothing'"):
        load_text_side("nothing")


def test_a_tokenizer_of_another_model_is_refused(copied):
    folder = copied(lambda weights: None)
    Tokenizer.train([f"sound {number}" for number in range(3000)], 2000, 16).save(folder)
    with pytest.raises(CheckpointError, match="tokens, but the model was built for .* do not belong together"):
        load_text_side(folder)


def test_empty_sentences_are_refused(tiny_checkpoint):
    with pytest.raises(SalmError, match="text 1: expected a sentence, got ' '"):
        load_text_side(tiny_checkpoint).encode_text(["rain", " "])
