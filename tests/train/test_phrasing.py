import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional

from salm.errors import ConfigError
from salm.evaluate.retrieval import VARIED_FORMS
from salm.geometry import SECTORS, find_sector
from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.train.cli import main
from salm.train.phrasing import CLAUSES, FRAMES, Phrasing, PhrasingBatches, PhrasingShares, rephrased
from salm.train.text import TextTraining, train_text_tower
from salm.weights.checkpoint import load_checkpoint

LABELS = ["dog barking", "rain", "church bell", "to the left"]
CAPTIONS = ["A dog barks", "Rain falls on a roof.", "A bell rings", "Traffic to the left"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(salm_tiny()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([*LABELS, *CAPTIONS, *FRAMES, *CLAUSES], 1_024, salm_tiny().text.max_tokens)


def batches(model, tokenizer, **training) -> PhrasingBatches:
    return PhrasingBatches(model, tokenizer, LABELS, CAPTIONS, Phrasing(TextTraining(**training)))


def test_a_sentence_names_the_label_and_the_direction_of_its_plain_one(model, tokenizer):
    pairs = batches(model, tokenizer, batch_size=400).pairs(np.random.default_rng(0))
    assert len(pairs) == 400
    for sentence, plain in pairs:
        assert find_sector(sentence) == find_sector(plain)
    asked = [pair for pair in pairs[:180] if pair[0] != pair[1]]
    assert len(asked) > 170
    for sentence, plain in asked:
        assert plain.split(" from the ")[0] in sentence.lower()
    assert not any("to the left from" in plain for _, plain in pairs)
    assert sum(sentence == plain for sentence, plain in pairs) >= 0.2 * len(pairs)


def test_every_frame_and_clause_keeps_the_direction():
    generator = np.random.default_rng(0)
    for sector in SECTORS:
        for _ in range(200):
            sentence = rephrased("rain", sector, generator)
            assert find_sector(sentence) == sector, sentence
            assert "rain" in sentence.lower()


def test_forms_of_the_evaluation_are_not_trained_on():
    trained = {
        form.replace("{q}", "").replace("{s}", "").replace("{d}", "").strip(" ?,") for form in (*FRAMES, *CLAUSES)
    }
    for form in VARIED_FORMS:
        words = form.split("{label}")
        assert not {part.strip(" ?,") for part in words if len(part.split()) > 2} & trained


def test_learning_brings_other_words_near_and_leaves_plain_ones_in_place(model, tokenizer):
    def plain_embeddings():
        with torch.no_grad():
            return functional.normalize(model.encode_text(*tokenizer(["rain from the west", "A dog barks"])), dim=-1)

    before = plain_embeddings()
    made = batches(model, tokenizer, num_steps=30, batch_size=32, learning_rate=3e-3)
    losses = train_text_tower(model, tokenizer, made, made.phrasing.training)
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert (before * plain_embeddings()).sum(dim=-1).min() > 0.98


def test_the_command_changes_the_text_tower_alone(start, dry_folder, tmp_path):
    settings = {
        "start": str(start),
        "export_to": str(tmp_path / "export"),
        "manifest": str(dry_folder / "manifest.csv"),
        "corpora": [str(dry_folder / "manifest.csv")],
        "phrasing": {"training": {"num_steps": 2, "batch_size": 20}},
    }
    config = tmp_path / "phrasing.yaml"
    config.write_text(yaml.safe_dump(settings))
    main(["phrasing", "--config", str(config)])
    before, after = (load_checkpoint(folder).model.state_dict() for folder in (start, tmp_path / "export"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text_encoder", "text_projection"}


def test_mistakes_in_the_configuration_are_told(tmp_path):
    config = tmp_path / "phrasing.yaml"
    config.write_text(yaml.safe_dump({"start": "a", "export_to": "b"}))
    with pytest.raises(ConfigError, match="expected the keys corpora, export_to, manifest, phrasing, start"):
        main(["phrasing", "--config", str(config)])
    with pytest.raises(ConfigError, match="add up to at most 1"):
        PhrasingShares(labels=0.9, captions=0.2)
