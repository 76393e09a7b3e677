"""16-bit matrix products give the tower's vectors but for rounding; no test asserts a time."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from salm.errors import ConfigError, DependencyError
from salm.models.compiled import compiled_library
from salm.models.htsat import HTSAT, SwinStage, merging_order
from salm.models.int16 import LARGEST_INPUT, LARGEST_SUM, SOURCE, Int16Stage, integer_weights
from salm.models.tuned import find_precision, tuned_branch
from tests.models.test_tuned import randomise

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _library():
    try:
        compiled_library(SOURCE)
    except DependencyError as error:
        pytest.skip(str(error))


def lowest_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(cosine_similarity(first, second, dim=-1).min())


@pytest.mark.parametrize(
    ("width", "heads", "window"),
    [(8, (1, 2, 2, 4), 8), (24, (1, 2, 4, 8), 4), (48, (2, 4, 8, 16), 8), (40, (2, 2, 4, 4), 8)],
    ids=["narrow", "small windows", "salm-small's", "heads that are no whole vectors"],
)
def test_branch_keeps_its_tokens(width, heads, window):
    branch = randomise(HTSAT(num_maps=2, width=width, depths=(2, 1, 3, 2), num_heads=heads, window=window))
    with torch.no_grad():
        for parameter in branch.parameters():  # what `randomise` adds would be all that is left of wide layers
            parameter.mul_(min(1.0, 8 / width) if parameter.ndim == 2 else 1.0)
    image = torch.randn(3, 2, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = branch(image), tuned_branch(branch, "int16")(image)
        alone = torch.cat([tuned_branch(branch, "int16")(one[None]) for one in image])
    assert expected.std() > 0.1
    assert lowest_cosine(found, expected) > 0.9995  # of single tokens
    assert lowest_cosine(found.mean(dim=1), expected.mean(dim=1)) > 0.99999
    assert not torch.equal(found, expected)
    assert torch.equal(found, alone)


def test_one_clip_is_the_same_on_any_number_of_threads():
    stage = randomise(SwinStage(width=16, depth=2, num_heads=2, side=16, window=8, merge=True))
    tokens = torch.randn(1, 256, 16, generator=torch.Generator().manual_seed(1))
    before, threads = tokens.clone(), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(Int16Stage(stage)(tokens))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert torch.equal(tokens, before)
    with torch.inference_mode():
        assert lowest_cosine(found[0], stage(tokens)) > 0.9999


def test_silent_tokens_stay_finite():
    torch.manual_seed(0)
    stage = SwinStage(width=16, depth=2, num_heads=2, side=8, window=8, merge=True).eval()
    tokens = torch.zeros(1, 64, 16)
    with torch.inference_mode():
        torch.testing.assert_close(Int16Stage(stage)(tokens), stage(tokens), atol=1e-3, rtol=0)


@pytest.mark.parametrize("inputs", [2, 96, 3072])
def test_no_sum_of_integer_products_leaves_32_bits(inputs):
    weight = torch.randn(5, inputs, generator=GENERATOR) * torch.tensor([1.0, 1e-6, 1e4, 0.0, 1.0])[:, None]
    weight[4] = 1.0  # all equal: the most that a row can add up to
    whole, worth = integer_weights(weight)
    assert int(whole.long().abs().sum(dim=1).max()) * LARGEST_INPUT <= LARGEST_SUM
    assert int(whole.long().abs().amax()) <= 2**15 - 1
    assert not whole[3].any()
    error = (whole * worth[:, None] - weight).abs().amax(dim=1)
    assert torch.all(error <= 0.501 * worth) and torch.isfinite(worth).all()
    typical = weight.abs().mean(dim=1)[[0, 1, 2]]
    assert torch.all(worth[[0, 1, 2]] < typical / 80)  # finer than bfloat16's 1/256 of a weight, plus or minus a half


def test_merging_order_is_that_of_patch_merging():
    # Neighbours (0, 0), (1, 0), (0, 1), (1, 1) in (row, column) of an image of 4 x 4.
    assert merging_order(4).view(-1, 4)[:2].tolist() == [[0, 4, 1, 5], [2, 6, 3, 7]]


def test_sizes_that_are_no_whole_vectors_are_refused():
    with pytest.raises(ConfigError, match="multiple of 8, got width 12 and 64 tokens"):
        Int16Stage(SwinStage(width=12, depth=1, num_heads=2, side=8, window=8, merge=False))
    with pytest.raises(ConfigError, match="got width 16 and 4 tokens"):
        Int16Stage(SwinStage(width=16, depth=1, num_heads=2, side=8, window=2, merge=False))


def test_auto_takes_int16_where_there_are_no_bf16_units(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("salm.models.tuned.has_bf16_units", lambda: False)
    assert find_precision("auto", cpu) == "int16"
    monkeypatch.setattr("salm.models.tuned.has_bf16_units", lambda: True)
    assert find_precision("auto", cpu) == "bfloat16"
    assert find_precision("float32", cpu) == "float32"
