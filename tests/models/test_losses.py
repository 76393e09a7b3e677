import inspect
import math

import pytest
import torch

from salm.errors import ConfigError
from salm.models.losses import ANY, TARGETS, classification_loss, contrastive_loss, doa_loss, same_meaning

SCALE = torch.tensor(10.0)


def pairs(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 16, generator=generator), torch.randn(count, 16, generator=generator)


@pytest.mark.parametrize("targets", TARGETS)
def test_zero_embeddings_give_log_of_the_batch(targets):
    zeros = torch.zeros(8, 16)
    loss = contrastive_loss(zeros, zeros, SCALE, torch.eye(8, dtype=torch.bool), targets)
    assert loss.item() == pytest.approx(math.log(8), abs=1e-5)


def test_zero_embeddings_with_duplicates():
    # Three of eight items mean the same: masked, each of them has 6 texts left and the others 8; with several positives
    # every text is equally likely, so it is log 8 whatever the number of positives.
    zeros, same = torch.zeros(8, 16), torch.eye(8, dtype=torch.bool)
    same[:3, :3] = True
    masked = contrastive_loss(zeros, zeros, SCALE, same, "masked").item()
    assert masked == pytest.approx((3 * math.log(6) + 5 * math.log(8)) / 8, abs=1e-5)
    assert contrastive_loss(zeros, zeros, SCALE, same, "multi_positive").item() == pytest.approx(math.log(8), abs=1e-5)


@pytest.mark.parametrize("targets", TARGETS)
def test_lengths_of_embeddings_do_not_matter(targets):
    audio, text = pairs()
    same = torch.eye(6, dtype=torch.bool)
    loss = contrastive_loss(audio, text, SCALE, same, targets)
    torch.testing.assert_close(contrastive_loss(7 * audio, text / 3, SCALE, same, targets), loss)
    torch.testing.assert_close(contrastive_loss(text, audio, SCALE, same, targets), loss)


@pytest.mark.parametrize("targets", TARGETS)
def test_gradients_are_finite_and_reach_both_sides_and_the_temperature(targets):
    audio, text = (side.requires_grad_() for side in pairs())
    scale = torch.tensor(10.0, requires_grad=True)
    same = torch.eye(6, dtype=torch.bool)
    same[0, 5] = same[5, 0] = True
    contrastive_loss(audio, text, scale, same, targets).backward()
    for tensor in (audio, text, scale):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.any()


def test_plain_infonce_by_hand():
    audio, text = pairs()
    logits = 10 * torch.nn.functional.normalize(audio, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    rows = [-(logits[i, i] - logits[i].logsumexp(0)) for i in range(6)]
    columns = [-(logits[i, i] - logits[:, i].logsumexp(0)) for i in range(6)]
    expected = sum(rows + columns) / 12
    torch.testing.assert_close(contrastive_loss(audio, text, SCALE, targets="instance"), expected)


@pytest.mark.parametrize("targets", ["masked", "multi_positive"])
def test_without_duplicates_all_targets_are_plain_infonce(targets):
    audio, text = pairs()
    plain = contrastive_loss(audio, text, SCALE, targets="instance")
    torch.testing.assert_close(contrastive_loss(audio, text, SCALE, torch.eye(6, dtype=torch.bool), targets), plain)


def test_masking_removes_duplicates_from_the_negatives():
    audio, text = pairs(4)
    audio[3], text[3] = audio[0], text[0]
    same = torch.eye(4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    masked = contrastive_loss(audio, text, SCALE, same, "masked")
    assert masked < contrastive_loss(audio, text, SCALE, targets="instance")
    logits = 10 * torch.nn.functional.normalize(audio, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    assert masked.item() == pytest.approx(_masked_by_hand(logits, same), abs=1e-5)


def _masked_by_hand(logits: torch.Tensor, same: torch.Tensor) -> float:
    total = 0.0
    for matrix in (logits, logits.T):
        for i in range(len(matrix)):
            kept = [j for j in range(len(matrix)) if j == i or not same[i, j]]
            total -= float(matrix[i, i] - matrix[i, kept].logsumexp(0))
    return total / (2 * len(logits))


def test_multi_positive_is_the_mean_over_true_pairs():
    audio, text = pairs(3)
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    logits = 10 * torch.nn.functional.normalize(audio, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    total = 0.0
    for matrix in (logits, logits.T):
        log_probability = matrix.log_softmax(-1)
        for i in range(3):
            positives = [j for j in range(3) if same[i, j]]
            total -= sum(float(log_probability[i, j]) for j in positives) / len(positives)
    assert contrastive_loss(audio, text, SCALE, same).item() == pytest.approx(total / 6, abs=1e-5)


def test_sentences_match_where_they_say_anything():
    labels, sectors = torch.tensor([0, 0, 1]), torch.tensor([2, 3, 2])
    text_labels, text_sectors = torch.tensor([0, ANY, 1]), torch.tensor([2, 2, ANY])
    expected = [[True, True, False], [False, False, False], [False, True, True]]
    assert same_meaning(labels, sectors, text_labels, text_sectors).tolist() == expected


def test_doa_loss_at_known_angles():
    east, north = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert doa_loss(east, east).item() == pytest.approx(0.0, abs=1e-6)
    assert doa_loss(east, north).item() == pytest.approx(1.0, abs=1e-6)
    assert doa_loss(east, -east).item() == pytest.approx(2.0, abs=1e-6)


def test_classification_of_nothing_is_log_of_the_classes():
    loss = classification_loss(torch.zeros(5, 16), torch.randn(8, 16), SCALE, torch.arange(5))
    assert loss.item() == pytest.approx(math.log(8), abs=1e-5)


def test_unknown_targets_and_missing_meanings_are_refused():
    audio, text = pairs()
    with pytest.raises(ConfigError, match="'soft'; expected one of instance, masked, multi_positive"):
        inspect.unwrap(contrastive_loss)(audio, text, SCALE, targets="soft")  # past the test run's type checker
    with pytest.raises(ConfigError, match="'masked' need the matrix"):
        contrastive_loss(audio, text, SCALE, targets="masked")
