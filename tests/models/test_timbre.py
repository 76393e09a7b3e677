"""The convolutional network beside the semantic branch: what holds whatever its weights are."""

import pytest
import torch

from salm.models.audio_encoder import AudioEncoder
from salm.models.timbre import TimbrePooling
from salm.models.tuned import tuned_encoder

SIZES = {"width": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 4)}


@pytest.fixture(scope="module")
def timbre():
    torch.manual_seed(0)
    return TimbrePooling(4).eval()


@pytest.fixture
def log_mel():
    return -40 + 10 * torch.randn(2, 1, 1001, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_whole_clip_is_the_mean_of_its_spans(timbre, log_mel):
    whole, halves = timbre(log_mel), timbre(log_mel, [(0, 16), (16, 32)])
    assert whole.shape == (2, 1, 64)
    assert halves.shape == (2, 2, 64)
    assert halves.std() > 1e-3
    torch.testing.assert_close(whole[:, 0], halves.mean(dim=1))


@torch.no_grad()
def test_a_span_hears_nothing_that_is_more_than_a_second_and_a_half_away(timbre, log_mel):
    spans = [(0, 8), (24, 32)]
    before = timbre(log_mel, spans)
    log_mel[:, :, 256 + 150 : 460] += 20.0
    after = timbre(log_mel, spans)
    assert torch.equal(after[:, 0], before[:, 0])
    log_mel[:, :, 800:] += 20.0
    assert not torch.allclose(timbre(log_mel, spans)[:, 1], before[:, 1], atol=1e-3)


@torch.no_grad()
def test_its_vector_stands_behind_the_semantic_branch_and_hears_w_alone(log_mel):
    torch.manual_seed(0)
    encoder = AudioEncoder(**SIZES, timbre_channels=4).eval()
    features = torch.randn(2, 7, 1001, 64)
    semantic, spatial = encoder.pool(features)
    assert semantic.shape == (2, encoder.semantic_width)
    assert encoder.semantic_width == encoder.out_width + 64
    assert spatial.shape == (2, encoder.out_width)
    torch.testing.assert_close(semantic[:, encoder.out_width :], encoder.timbre(features[:, :1])[:, 0])
    features[:, 1:] = 0.0
    without = encoder.pool(features)[0]
    torch.testing.assert_close(without[:, encoder.out_width :], semantic[:, encoder.out_width :])


def test_a_tower_without_semantic_branch_has_none():
    encoder = AudioEncoder(**SIZES, branches=("spatial",), timbre_channels=4)
    assert encoder.timbre is None


@torch.no_grad()
def test_its_maps_lie_channels_last(timbre, log_mel):
    """Also those of the tuned tower; with the channels first it takes twice as long."""
    encoder = AudioEncoder(**SIZES, timbre_channels=4).eval()
    for network in (timbre, tuned_encoder(encoder, "bfloat16").timbre):
        assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in network.stages(log_mel))
