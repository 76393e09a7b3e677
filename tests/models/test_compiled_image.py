"""Compiled code against `MapNorm.image`, which is torch's."""

import pytest
import torch

from salm.errors import ConfigError, DependencyError
from salm.models.audio_encoder import AudioEncoder, MapNorm
from salm.models.compiled_image import CompiledMapNorm
from salm.models.tuned import tuned_encoder


@pytest.fixture
def norm():
    norm = MapNorm(3, 64).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in norm.norm.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if name == "running_var" else -0.5))
    return norm


@pytest.fixture
def compiled(norm):
    try:
        return CompiledMapNorm(norm, "the test")
    except DependencyError as error:
        pytest.skip(str(error))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stretched", [False, True])
@pytest.mark.parametrize("frames", [1, 257, 1001, 1024])
def test_images_are_the_same(norm, compiled, frames, stretched):
    features = noise(2, 3, frames, 64)
    expected = norm.image(features, stretched=stretched).detach()
    assert expected.shape == (2, 3, 256, 256) and expected.std() > 0.01
    torch.testing.assert_close(compiled.image(features, stretched=stretched), expected, atol=2e-6, rtol=1e-5)


def test_features_need_not_be_contiguous(norm, compiled):
    features = noise(1, 3, 64, 100).transpose(-1, -2)
    torch.testing.assert_close(compiled.image(features), norm.image(features).detach(), atol=2e-6, rtol=1e-5)
    assert torch.equal(compiled.image(features.double()), compiled.image(features))


def test_images_are_the_same_on_any_number_of_threads(compiled):
    features, threads, images = noise(1, 3, 1001, 64), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            images.append(compiled.image(features))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 1025, 64), "expected 64 mels and at most 1024 frames, got 64 mels and 1025 frames"),
        ((1, 3, 100, 32), "got 32 mels and 100 frames"),
        ((1, 7, 100, 64), "expected 3 maps of each clip, got 7"),
    ],
)
def test_features_of_another_size_are_refused(compiled, shape, message):
    with pytest.raises(ConfigError, match=message):
        compiled.image(torch.zeros(shape))


@pytest.mark.parametrize("precision", ["float32", "int16"])
def test_tuned_encoders_have_it_with_integers(compiled, precision):
    encoder = AudioEncoder(width=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)).eval()
    tuned = tuned_encoder(encoder, precision)
    assert isinstance(tuned.map_norm, CompiledMapNorm) == (precision == "int16")
    assert isinstance(encoder.map_norm, MapNorm)
