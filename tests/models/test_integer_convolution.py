"""Convolutions of integers give the timbre network's vectors but for rounding; no test asserts a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from salm.errors import DependencyError
from salm.models.audio_encoder import AudioEncoder
from salm.models.convolution import fuse_batch_norms
from salm.models.integer_convolution import (
    IntegerTimbre,
    Result,
    convolution_library,
    convolve,
    pack_convolution,
    round_maps,
)
from salm.models.integer_weights import INTEGERS, WITHOUT_VNNI, integers_here, sum_keeping_integers, sums_of_four
from salm.models.timbre import TimbrePooling
from salm.models.tuned import tuned_encoder
from tests.models.test_timbre import SIZES
from tests.models.test_tuned import randomise


@pytest.fixture(autouse=True)
def library():
    try:
        convolution_library()
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def timbre():
    network = randomise(TimbrePooling(8)).eval()
    fuse_batch_norms(network.layers)
    return network


@pytest.fixture(scope="module")
def log_mel():
    return -40 + 10 * torch.randn(2, 1, 1001, 64, generator=torch.Generator().manual_seed(1))


def whole_numbers(most: int, *shape: int) -> torch.Tensor:
    """Up to `most` in magnitude, which the first one of each row is, so that rounding changes nothing."""
    numbers = torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(most)).float()
    numbers.flatten(1)[:, 0] = most
    return numbers


@pytest.mark.parametrize("taps", [1, 9])
@pytest.mark.parametrize("integers", [INTEGERS[8], WITHOUT_VNNI], ids=["VNNI", "AVX2"])
def test_sums_of_weights_are_kept(taps, integers):
    weight = (
        torch.randn(5, taps, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 5)[:, None, None]
    )
    weight[3] = 0.0
    whole, worth = sum_keeping_integers(weight, integers)
    error = weight - whole * worth[:, None, None]
    assert whole.abs().max() <= 127 and not whole[3].any()
    if integers.largest_four is not None:
        assert sums_of_four(whole.flatten(1).int())[[0, 1, 2, 4]].amax(dim=1).min() >= 112
        assert sums_of_four(whole.flatten(1).int()).max() <= 128
    assert torch.all(error.abs().amax(dim=(1, 2)) <= 1.51 * worth)
    assert torch.all(error.sum(dim=(1, 2)).abs() <= 0.51 * worth)
    nearest = weight - (weight / worth[:, None, None]).round() * worth[:, None, None]
    of_inputs, before = (part.sum(dim=1).square().mean(dim=1).sqrt()[[0, 1, 2, 4]] for part in (error, nearest))
    assert torch.all(of_inputs < (0.6 if taps > 1 else 1.5) * before)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("width", "out", "columns"), [(8, 8, 5), (24, 24, 16), (16, 40, 9), (8, 64, 8), (8, 80, 17)])
def test_sums_are_exact(kernel, width, out, columns):
    layer = nn.Conv2d(width, out, kernel, padding=kernel // 2)
    largest_four = integers_here(8).largest_four
    layer.weight.data = whole_numbers(126 if largest_four is None else largest_four // 4 - 2, *layer.weight.shape)
    layer.weight.data[:, [0, 1, 4, 5], 0, 0] = layer.weight.max()  # without VNNI they are rounded together
    layer.bias.data = whole_numbers(1000, out, 1)[:, 0]
    maps = whole_numbers(255, 1, 6, columns, width)[0].abs()
    packed, rounded = pack_convolution(layer), round_maps(maps)
    assert rounded.worth == 1.0
    expected = layer(maps.permute(2, 0, 1)).permute(1, 2, 0)
    assert torch.equal(convolve(packed, rounded, Result.PLAIN), expected)
    assert torch.equal(convolve(packed, rounded, Result.RECTIFIED), expected.relu())
    before = whole_numbers(10_000, *expected.shape)
    assert torch.equal(convolve(packed, rounded, Result.ADDED, onto=before.clone()), (before + expected).relu())


@pytest.mark.parametrize("kernel", [1, 3])
def test_rounded_weights_cost_constant_maps_nothing(kernel):
    layer = nn.Conv2d(24, 40, kernel, padding=kernel // 2)
    maps = whole_numbers(255, 1, 24)[0].abs().expand(200, 100, 24).contiguous()
    found = convolve(pack_convolution(layer), round_maps(maps), Result.PLAIN)[1:-1, 1:-1]
    torch.testing.assert_close(found, layer(maps.permute(2, 0, 1)).permute(1, 2, 0)[1:-1, 1:-1], atol=1e-3, rtol=0)
    rounded = pack_convolution(layer)
    rounded.error.zero_()
    assert (convolve(rounded, round_maps(maps), Result.PLAIN)[1:-1, 1:-1] - found).abs().max() > 0.1


@pytest.mark.parametrize("halve", [False, True])
def test_maps_are_rounded_within_their_border(halve):
    maps = torch.rand(8, 12, 24, generator=torch.Generator().manual_seed(0)) * 3e-3
    rounded = round_maps(maps, halve=halve)
    expected = functional.avg_pool2d(maps.permute(2, 0, 1), 2).permute(1, 2, 0) if halve else maps
    inside = rounded.whole[1:-1, 1:-1]
    assert inside.max() == 255
    assert rounded.whole.sum() == inside.sum()
    assert rounded.worth == pytest.approx(expected.max().item() / 255)
    torch.testing.assert_close(rounded.means, (inside * rounded.worth).mean(dim=(0, 1)))
    torch.testing.assert_close(inside * rounded.worth, expected, atol=0.501 * rounded.worth, rtol=0)


def test_silent_maps_stay_silent():
    rounded = round_maps(torch.zeros(2, 3, 8))
    assert rounded.worth == 0.0
    layer = nn.Conv2d(8, 16, 3, padding=1)
    silent = convolve(pack_convolution(layer), rounded, Result.PLAIN)
    assert torch.equal(silent, layer.bias.expand(2, 3, 16))


@torch.inference_mode()
def test_vectors_are_the_networks_but_for_rounding(timbre, log_mel):
    expected, found = timbre(log_mel), IntegerTimbre(timbre)(log_mel)
    assert expected.std(dim=-1).min() > 0.01
    assert functional.cosine_similarity(found, expected, dim=-1).min() > 0.999
    assert not torch.equal(found, expected)


@torch.inference_mode()
def test_vectors_are_the_same_alone_and_on_any_number_of_threads(timbre, log_mel):
    network, threads = IntegerTimbre(timbre), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = network(log_mel)
        for count in (2, 3):
            torch.set_num_threads(count)
            torch.testing.assert_close(network(log_mel), expected, atol=1e-5, rtol=1e-5)  # the first layer is torch's
        torch.set_num_threads(1)
        assert torch.equal(torch.cat([network(one[None]) for one in log_mel]), expected)
    finally:
        torch.set_num_threads(threads)


def test_networks_of_whole_vectors_alone_are_rounded():
    assert IntegerTimbre.fits(TimbrePooling(8)) and not IntegerTimbre.fits(TimbrePooling(4))
    for channels, kind in ((8, IntegerTimbre), (4, TimbrePooling)):
        encoder = randomise(AudioEncoder(**SIZES, timbre_channels=channels))
        assert isinstance(tuned_encoder(encoder, "int8").timbre, kind)
