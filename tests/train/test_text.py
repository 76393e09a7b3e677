import numpy as np
import pytest
import torch

from salm.errors import ConfigError
from salm.geometry import SECTORS, find_sector
from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.train.text import DIRECTION_WIDTH, SentenceBatches, TextTraining, direction_code, train_text_tower

CAPTIONS = ["A dog barks", "Rain falls on a roof", "A bell rings", "Someone walks", "Traffic to the left"]


def batches(**settings) -> SentenceBatches:
    meanings = np.random.default_rng(0).normal(size=(len(CAPTIONS), 16)).astype(np.float32)
    return SentenceBatches(CAPTIONS, meanings, 512, TextTraining(**settings))


def test_direction_codes_are_unit_vectors_that_tell_sectors_apart():
    codes = np.stack([direction_code(sector) for sector in SECTORS])
    similarity = codes @ codes.T
    np.testing.assert_allclose(np.diag(similarity), 1.0, atol=1e-6)
    assert similarity[~np.eye(8, dtype=bool)].max() < 0.05
    # A symmetry: turning both by one sector changes no similarity.
    np.testing.assert_allclose(similarity, np.roll(similarity, (1, 1), axis=(0, 1)), atol=1e-6)


def test_targets_hold_meaning_and_direction_apart():
    sentences, targets = next(iter(batches(batch_size=200)))
    assert len(sentences) == 200
    meaning, code = targets[:, :16], targets[:, 16 : 16 + DIRECTION_WIDTH]
    assert not targets[:, 16 + DIRECTION_WIDTH :].any()
    bare, spatial, plain = slice(0, 10), slice(10, 100), slice(100, 200)
    assert not meaning[bare].any()
    assert not code[plain].any()
    for part in (meaning[spatial], meaning[plain], code[bare], code[spatial]):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(len(part)))
    for sentence, row in zip(sentences[:100], code[:100], strict=True):
        sector = find_sector(sentence)
        assert sector is not None
        np.testing.assert_allclose(row, direction_code(sector))


def test_a_caption_with_a_direction_of_its_own_gets_no_other():
    sentences, targets = next(iter(batches(batch_size=200)))
    named = [row for row, sentence in enumerate(sentences) if "Traffic" in sentence]
    assert named
    assert not targets[named, 16 : 16 + DIRECTION_WIDTH].any()


def test_batches_repeat_from_the_same_seed():
    first, again, other = (next(iter(batches(seed=seed)))[0] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="16 dimensions and 8 .* do not fit into 20"):
        SentenceBatches(CAPTIONS, np.ones((5, 16), np.float32), 20, TextTraining())
    with pytest.raises(ConfigError, match="more than 1"):
        TextTraining(spatial_share=0.9, direction_share=0.2)


def test_training_learns_a_handful_of_sentences():
    torch.manual_seed(0)
    config = salm_tiny()
    tokenizer = Tokenizer.train(CAPTIONS, config.text.vocabulary_size, config.text.max_tokens)
    training = TextTraining(num_steps=60, batch_size=32, learning_rate=3e-3)
    losses = train_text_tower(build_model(config), tokenizer, batches(num_steps=60, batch_size=32), training)
    assert losses[:5].mean() > 0.8
    assert losses[-5:].mean() < 0.55
