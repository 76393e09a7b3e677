"""The calibration of joint embeddings: what it leaves alone, and what it takes off."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from salm.models.builders import build_model, salm_tiny
from salm.models.calibration import COMMON, PART_OF_QUERY, Calibration
from salm.text.tokenizer import Tokenizer
from salm.train.module import SalmTraining
from salm.weights.checkpoint import load_checkpoint, save_checkpoint

WIDTH, LABELS, SHARPNESS, WEIGHT = 32, 6, 40.0, 0.5


@pytest.fixture(scope="module")
def bank():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LABELS, WIDTH, generator=generator), torch.randn(8, WIDTH, generator=generator)


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, WIDTH, generator=generator), torch.randn(20, WIDTH, generator=generator)


@pytest.fixture(scope="module")
def calibration(bank, clips):
    return Calibration.fit(*bank, *clips, sharpness=SHARPNESS, spatial_weight=WEIGHT)


def unit(vectors):
    return functional.normalize(vectors[..., :-1], dim=-1)


def soft_maximum(products, sharpness):
    return (sharpness * products).exp().sum(dim=-1).log() / sharpness


def test_sentences_have_unit_length_and_one_common_dimension(calibration, bank):
    sentences = calibration.text(3.0 * bank[0])
    torch.testing.assert_close(sentences[:, :-1], unit(bank[0]))
    assert (sentences[:, -1] == COMMON).all()
    directions = calibration.direction(bank[1])
    torch.testing.assert_close(directions[:, :-1], unit(bank[1]))
    assert (directions[:, -1] == 0).all()


def test_products_lose_the_soft_maximum_over_the_bank(calibration, bank, clips):
    """Sentence by sentence: the cosine without the last dimension, minus what the clip has in common with the bank."""
    queries = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
    cosines = unit(clips[0]) @ unit(queries).T
    common = soft_maximum(unit(clips[0]) @ unit(bank[0]).T, SHARPNESS)
    expected = cosines - PART_OF_QUERY * (common - common.mean())[:, None]
    torch.testing.assert_close(calibration.semantic(clips[0]) @ calibration.text(queries).T, expected)


def test_only_what_tells_directions_apart_is_left_of_the_spatial_part(calibration, bank, clips):
    prompts = unit(bank[1])
    inside = clips[1][:, :-1] @ torch.linalg.pinv(prompts) @ prompts
    direction = functional.normalize(inside, dim=-1)
    common = soft_maximum(direction @ prompts.T, SHARPNESS * WEIGHT)
    found = calibration.spatial(clips[1])
    torch.testing.assert_close(found[:, :-1], direction, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, -1], -PART_OF_QUERY / COMMON * (common - common.mean()), atol=1e-5, rtol=0)
    outside = torch.cat(
        [clips[0][:, :-1] - clips[0][:, :-1] @ torch.linalg.pinv(prompts) @ prompts, clips[0][:, :1]], 1
    )
    torch.testing.assert_close(calibration.spatial(2.0 * clips[1] + outside), found, atol=1e-5, rtol=0)
    assert torch.equal((found @ calibration.text(bank[1]).T).argmax(1), (clips[1][:, :-1] @ prompts.T).argmax(1))


def test_lengths_of_the_parts_mean_nothing(calibration, clips):
    for part, calibrated in ((clips[0], calibration.semantic), (clips[1], calibration.spatial)):
        torch.testing.assert_close(calibrated(7.0 * part), calibrated(part), atol=1e-6, rtol=0)
        torch.testing.assert_close(calibrated(part[None]), calibrated(part)[None], msg="any batch")


def test_a_clip_that_fits_one_sentence_is_found_before_one_that_fits_all(bank):
    """The hub is closer to the first label than the clip that fits nothing else."""
    axes = torch.eye(WIDTH)
    hub, sure = axes[:4].sum(dim=0) / 2, 0.45 * axes[0] + (1 - 0.45**2) ** 0.5 * axes[20]
    clips = torch.stack([hub, sure])
    found = Calibration.fit(axes[:LABELS], bank[1], clips, clips, sharpness=SHARPNESS, spatial_weight=WEIGHT)
    assert (clips @ axes[0]).argmax() == 0
    scores = functional.normalize(found.semantic(clips), dim=-1) @ found.text(axes[0])
    assert scores.argmax() == 1


@pytest.fixture(scope="module")
def calibrated():
    """A tiny model with a calibration; its configuration; and the same weights without it."""
    config = replace(salm_tiny(), query_bank=LABELS)
    torch.manual_seed(0)
    model = build_model(config).eval()
    torch.nn.init.constant_(model.spatial_weight, WEIGHT)
    plain = build_model(salm_tiny()).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    parts = torch.randn(2, 20, 512)
    model.calibration = Calibration.fit(
        torch.randn(LABELS, 512), torch.randn(8, 512), *parts, sharpness=SHARPNESS, spatial_weight=WEIGHT
    )
    return model, config, plain


@torch.inference_mode()
def test_equations_2_and_3_hold_for_calibrated_parts(calibrated):
    model, _, plain = calibrated
    features = torch.randn(2, 7, 1001, 64, generator=torch.Generator().manual_seed(1))
    parts, before = model.encode_audio(features), plain.encode_audio(features)
    assert torch.equal(parts.joint, parts.semantic + WEIGHT * parts.spatial)
    assert torch.equal(parts.doa, before.doa), "the DOA head reads the part as it was"
    torch.testing.assert_close(parts.semantic, model.calibration.semantic(before.semantic))
    torch.testing.assert_close(parts.spatial, model.calibration.spatial(before.spatial))
    ids, mask = torch.randint(5, 1_000, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    text = model.encode_text(ids, mask)
    torch.testing.assert_close(text, model.calibration.text(plain.encode_text(ids, mask)))
    edited = model.edit_direction(parts.semantic, parts.spatial, text[:1])
    direction = model.calibration.direction(text[:1])
    length = parts.spatial.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(edited, parts.semantic + WEIGHT * length * direction)
    mono = model.encode_semantic(features[:, :1])
    torch.testing.assert_close(mono, model.calibration.semantic(plain.encode_semantic(features[:, :1])))


def test_a_checkpoint_keeps_it_and_training_leaves_it_behind(calibrated, tmp_path):
    model, config, _ = calibrated
    tokenizer = Tokenizer.train(["noise from the north"], 1_024, config.text.max_tokens)
    save_checkpoint(tmp_path / "model", model, config, tokenizer, dtype=torch.float32)
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.config.query_bank == LABELS
    for name, value in model.calibration.state_dict().items():
        assert torch.equal(loaded.model.calibration.state_dict()[name], value), name
    training = SalmTraining(start=str(tmp_path / "model"), export_to=str(tmp_path / "export"))
    assert training.config.query_bank == 0
    assert training.model.calibration is None
