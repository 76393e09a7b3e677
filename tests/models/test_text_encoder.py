"""The text tower against `transformers.RobertaModel`, its slow oracle."""

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from salm.models.text_encoder import PAD_ID, TextEncoder

SIZES = {"vocabulary_size": 90, "width": 24, "depth": 3, "num_heads": 3, "hidden_width": 40, "max_tokens": 16}


def oracle(dropout: float) -> RobertaModel:
    return RobertaModel(
        RobertaConfig(
            vocab_size=90, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )
    )  # fmt: skip


def sentences() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 90, (4, 12), generator=torch.Generator().manual_seed(0))
    ids[1, 5:], ids[2, 2:] = PAD_ID, PAD_ID
    return ids, (ids != PAD_ID).long()


@pytest.fixture
def pair():
    torch.manual_seed(0)
    theirs = oracle(0.0)
    torch.manual_seed(0)
    return TextEncoder(**SIZES, dropout=0.0), theirs


def test_weights_have_transformers_names_order_and_start(pair):
    ours, theirs = pair
    assert list(ours.roberta.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.roberta.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.roberta.state_dict().items())


def test_sentences_and_gradients_are_transformers(pair):
    ours, theirs = pair
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.3)
    ours.roberta.load_state_dict(theirs.state_dict())
    ids, mask = sentences()
    expected = theirs(input_ids=ids, attention_mask=mask).pooler_output
    pooled = ours(ids, mask)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    pooled.square().sum().backward()
    expected.square().sum().backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters()}
    for name, value in ours.roberta.named_parameters():
        torch.testing.assert_close(value.grad, gradients[name], atol=1e-4, rtol=1e-3)


def test_a_sentence_does_not_depend_on_its_batch(pair):
    ids, mask = sentences()
    with torch.inference_mode():
        together = pair[0](ids, mask)
        alone = torch.cat(
            [pair[0](ids[row : row + 1, :n], mask[row : row + 1, :n]) for row, n in enumerate((12, 5, 2, 12))]
        )
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    encoder = TextEncoder(**SIZES, dropout=0.5)
    ids, mask = sentences()
    assert not torch.equal(encoder(ids, mask), encoder(ids, mask))
    encoder.eval()
    assert torch.equal(encoder(ids, mask), encoder(ids, mask))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads that divide 24, got 3 and 5"):
        TextEncoder(**SIZES | {"num_heads": 5})
