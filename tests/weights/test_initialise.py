import copy

import pytest
import torch

from salm.errors import CheckpointError
from salm.models.audio_encoder import AudioEncoder
from salm.models.htsat import HTSAT, fold_image
from salm.models.salm import SALM
from salm.models.text_encoder import TextEncoder
from salm.weights.convert import ClapTowers, audio_encoder_from_pseldnets
from salm.weights.initialise import initialise, spread_kernel

SIZES = {"width": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 4)}


def text_tower(max_tokens: int, **changes: int) -> TextEncoder:
    sizes = {"vocabulary_size": 50, "width": 32, "depth": 1, "num_heads": 2, "hidden_width": 64}
    return TextEncoder(max_tokens=max_tokens, dropout=0.0, **(sizes | changes))


@pytest.fixture
def model():
    torch.manual_seed(1)
    return SALM(AudioEncoder(**SIZES), text_tower(20), embedding_width=24).eval()


@pytest.fixture(scope="module")
def clap():
    torch.manual_seed(2)
    towers = ClapTowers(HTSAT(num_maps=1, **SIZES), text_tower(40), num_mels=64, embedding_width=24).eval()
    towers.map_norm.norm.running_mean.normal_(-30, 5)
    towers.map_norm.norm.running_var.uniform_(300, 500)
    return towers


@pytest.fixture(scope="module")
def pseldnets(shared_dir):
    return audio_encoder_from_pseldnets(shared_dir / "parity/pseldnets_tiny.ckpt")


def uncouple(encoder: AudioEncoder) -> None:
    for stitch in encoder.stitches:
        stitch.weight.data = torch.eye(2).repeat(len(stitch.weight), 1, 1)


def test_equal_log_mel_maps_give_claps_tokens_in_both_branches(model, clap):
    initialise(model, clap=clap)
    uncouple(model.audio_encoder)
    logmel = torch.rand(1, 1, 1001, 64) * 60 - 70
    features = torch.cat([logmel.expand(-1, 4, -1, -1), torch.randn(1, 3, 1001, 64)], dim=1)
    with torch.inference_mode():
        expected = clap.htsat(fold_image(clap.map_norm(logmel.transpose(-1, -2))))
        for tokens in model.audio_encoder(features):
            torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


def test_text_is_claps_but_for_the_longest_sentences(model, clap):
    initialise(model, clap=clap)
    ids = torch.randint(3, 50, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    torch.testing.assert_close(model.encode_text(ids, mask), clap.embed_text(ids, mask))
    pooled = torch.randn(2, 64)
    torch.testing.assert_close(model.semantic_projection(pooled), clap.audio_projection(pooled))


def test_the_spatial_branch_is_pseldnets(model, clap, pseldnets):
    done = initialise(model, clap=clap, pseldnets=pseldnets)
    encoder, reference = copy.deepcopy(model.audio_encoder), copy.deepcopy(pseldnets)
    uncouple(encoder)
    uncouple(reference)
    features = torch.randn(1, 7, 1001, 64)
    torch.testing.assert_close(encoder.pool(features)[1], reference.pool(features)[1])
    assert {source for key, source in done.taken.items() if ".spatial." in key or "map_norm" in key} == {"pseldnets"}
    assert {source for key, source in done.taken.items() if ".semantic." in key or "text" in key} == {"clap"}


def test_the_rest_stays_fresh_and_is_listed(model, clap, pseldnets):
    before = copy.deepcopy(model.state_dict())
    done = initialise(model, clap=clap, pseldnets=pseldnets)
    assert set(done.taken) | set(done.fresh) == set(before)
    assert {key.split(".")[0] for key in done.fresh if "stitches" not in key} == {
        "spatial_projection",
        "doa_head",
        "spatial_weight",
        "log_temperature",
    }
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in done.fresh)
    assert str(done).endswith(f"{len(done.fresh)} fresh")


def test_a_patch_embedding_for_more_maps():
    kernel = torch.randn(8, 1, 4, 4)
    assert torch.equal(spread_kernel(kernel, 1), kernel)
    seven = spread_kernel(kernel, 7)
    assert seven.shape == (8, 7, 4, 4)
    assert not seven[:, 4:].any()
    torch.testing.assert_close(seven.sum(dim=1, keepdim=True), kernel)
    assert torch.equal(seven[:, 0], seven[:, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_tower(20, width=16), r"clap: text_encoder\.\S+ has shape .* build the model in the checkpoint's sizes"),
        (text_tower(20, depth=2), r"the checkpoints have no text_encoder\.roberta\.encoder\.layer\.1"),
        (text_tower(60), r"position_embeddings\.weight has shape \(42, 32\), the model has \(62, 32\)"),
    ],
)
def test_models_of_other_sizes_are_refused_and_left_alone(clap, text, message):
    model = SALM(AudioEncoder(**SIZES), text, embedding_width=24)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        initialise(model, clap=clap)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
