"""Compiled networks of `ArrivalPooling` give the same logits; no test asserts a time."""

import pytest
import torch

from salm.errors import DependencyError
from salm.models.arrival import ArrivalPooling
from salm.models.audio_encoder import AudioEncoder
from salm.models.compiled_arrival import CompiledWeights
from salm.models.tuned import tuned_encoder
from tests.models.test_timbre import SIZES
from tests.models.test_tuned import randomise


@pytest.fixture(scope="module", params=["first", "second"])
def networks(request):
    torch.manual_seed(0)
    network = getattr(ArrivalPooling(8), request.param)
    try:
        return network, CompiledWeights(network, "the test")
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("frames", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("mels", [8, 64])
def test_logits_are_the_same(networks, frames, mels):
    network, compiled = networks
    cues = torch.randn(2, network[0].in_channels, frames, mels, generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        expected = network(cues)
        assert expected.std() > 0.01
        torch.testing.assert_close(compiled(cues), expected, atol=1e-5, rtol=1e-5)


def test_logits_are_the_same_on_any_number_of_threads(networks):
    network, compiled = networks
    cues = torch.randn(1, network[0].in_channels, 200, 64, generator=torch.Generator().manual_seed(1))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(compiled(cues))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("channels", [8, 4])
def test_networks_of_eight_channels_alone_are_compiled(channels):
    encoder = randomise(AudioEncoder(**SIZES, arrival_channels=channels))
    try:
        tuned = tuned_encoder(encoder, "int16")
    except DependencyError as error:
        pytest.skip(str(error))
    assert isinstance(tuned.arrival.second, CompiledWeights) == (channels == 8)
    assert not isinstance(encoder.arrival.second, CompiledWeights)
    features = torch.randn(1, 7, 1001, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(tuned.arrival(features), encoder.arrival(features), atol=1e-4, rtol=0)
