"""The tuned tower equals the one that is trained; no test asserts a time."""

import pytest
import torch

from salm.errors import ConfigError
from salm.models.audio_encoder import AudioEncoder
from salm.models.htsat import HTSAT, window_order
from salm.models.tuned import PackedLinear, tuned_branch, tuned_encoder

SIZES = {"width": 8, "depths": (2, 1, 3, 2), "num_heads": (1, 2, 2, 4)}


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Fresh norms, biases and position biases would hide a path that leaves them out."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, statistics in module.named_buffers():
            if "running" in name:
                statistics.add_(0.5 * torch.rand(statistics.shape, generator=generator))
    return module.eval()


@pytest.fixture(scope="module")
def branch():
    return randomise(HTSAT(num_maps=2, **SIZES))


@pytest.fixture(scope="module")
def encoder():
    return randomise(AudioEncoder(**SIZES, timbre_channels=4))


@pytest.mark.parametrize("batch", [1, 3])
def test_tuned_branch_equals_the_trained_one(branch, batch):
    image = torch.randn(batch, 2, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, tokens = branch(image), tuned_branch(branch)(image)
    assert expected.std() > 0.1
    torch.testing.assert_close(tokens, expected, atol=2e-5, rtol=1e-4)


def test_bfloat16_branch_keeps_its_direction(branch):
    image = torch.randn(3, 2, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, tokens = branch(image).mean(dim=1), tuned_branch(branch, "bfloat16")(image)
    assert tokens.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(tokens.mean(dim=1), expected).min() > 0.999
    assert not torch.equal(tokens.mean(dim=1), expected)


def test_tuned_encoder_equals_both_branches_and_either_alone(encoder):
    features = 10 * torch.randn(2, 7, 1001, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for expected, found in zip(encoder.pool(features), tuned_encoder(encoder).pool(features), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        for name in ("semantic", "spatial"):
            alone = randomise(AudioEncoder(**SIZES, branches=(name,)))
            for expected, found in zip(alone.pool(features), tuned_encoder(alone).pool(features), strict=True):
                torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_tuning_leaves_the_model_as_it_was(encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    kinds = [type(module) for module in encoder.modules()]
    tuned_encoder(encoder, "bfloat16")
    assert [type(module) for module in encoder.modules()] == kinds
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_window_order_is_rolling_and_cutting():
    image = torch.arange(64).view(8, 8)
    rolled = image.roll((-2, -2), dims=(0, 1))
    corner = rolled[4:, :4].flatten()  # the third of four windows
    assert torch.equal(window_order(8, 4, 2)[32:48], corner)
    assert torch.equal(window_order(8, 8, 0), image.flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packs", [True, False])
def test_packed_linear_and_what_follows_it(dtype, packs, monkeypatch):
    if not packs:
        monkeypatch.setattr("salm.models.tuned._can_pack", lambda weight: False)
    torch.manual_seed(0)
    layer, rows, other = torch.nn.Linear(24, 40), torch.randn(5, 3, 24), torch.randn(5, 3, 40)
    scale = torch.linspace(0.5, 2.0, 40)
    packed = PackedLinear(layer, dtype, row_scale=scale)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}
    with torch.inference_mode():
        expected = layer(rows) * scale
        rows, narrow = rows.to(dtype), other.to(dtype)
        torch.testing.assert_close(packed(rows).float(), expected, **tolerance)
        torch.testing.assert_close(packed.gelu(rows).float(), torch.nn.functional.gelu(expected), **tolerance)
        torch.testing.assert_close(packed.add(rows, narrow).float(), expected + other, **tolerance)


def test_unknown_precision_is_refused(branch):
    with pytest.raises(ConfigError, match="unknown precision 'int4'; expected one of float32, bfloat16, int8, int16$"):
        tuned_branch(branch, "int4")
