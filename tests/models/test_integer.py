"""Matrix products of integers give the tower's vectors but for rounding; no test asserts a time."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from salm.compiled import torch_threads
from salm.errors import ConfigError, DependencyError
from salm.models.htsat import HTSAT, PatchEmbed, SwinStage, merging_order
from salm.models.integer import CompiledPatchEmbed, IntegerStage, integer_library
from salm.models.integer_weights import INTEGERS, LARGEST_SUM, WITHOUT_VNNI, integer_weights, sums_of_four
from salm.models.precision import find_precision
from salm.models.tuned import tuned_branch
from tests.models.test_tuned import randomise

GENERATOR = torch.Generator().manual_seed(0)


def lowest_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(cosine_similarity(first, second, dim=-1).min())


@pytest.mark.parametrize(
    ("width", "heads", "window"),
    [(8, (1, 2, 2, 4), 8), (24, (1, 2, 4, 8), 4), (48, (2, 4, 8, 16), 8), (40, (2, 2, 4, 4), 8)],
    ids=["narrow", "small windows", "salm-small's", "heads that are no whole vectors"],
)
def test_branch_keeps_its_tokens(width, heads, window, bits):
    branch = randomise(HTSAT(num_maps=2, width=width, depths=(2, 1, 3, 2), num_heads=heads, window=window))
    with torch.no_grad():
        for parameter in branch.parameters():  # what `randomise` adds would be all that is left of wide layers
            parameter.mul_(min(1.0, 8 / width) if parameter.ndim == 2 else 1.0)
    image = torch.randn(3, 2, 256, 256, generator=torch.Generator().manual_seed(1))
    precision = f"int{bits}"
    with torch.inference_mode():
        expected, found = branch(image), tuned_branch(branch, precision)(image)
        alone = torch.cat([tuned_branch(branch, precision)(one[None]) for one in image])
    assert expected.std() > 0.1
    of_tokens, of_clips = {8: (0.99, 0.999), 16: (0.9995, 0.99999)}[bits]
    assert lowest_cosine(found, expected) > of_tokens
    assert lowest_cosine(found.mean(dim=1), expected.mean(dim=1)) > of_clips
    assert not torch.equal(found, expected)
    assert torch.equal(found, alone)


@pytest.mark.parametrize(("maps", "width"), [(1, 96), (7, 8), (2, 40)])
def test_patches_become_the_same_tokens(maps, width, bits):
    embed = randomise(PatchEmbed(maps, width))
    images = torch.randn(2, 2 * maps, 256, 256, generator=torch.Generator().manual_seed(1))[:, ::2]  # not contiguous
    with torch.inference_mode():
        torch.testing.assert_close(CompiledPatchEmbed(embed, bits)(images), embed(images), atol=2e-5, rtol=2e-5)


def test_one_clip_is_the_same_on_any_number_of_threads(bits, monkeypatch):
    """More threads than its four windows share the heads, not all of them pairs, and then the tokens of each."""
    stage = randomise(SwinStage(width=40, depth=2, num_heads=5, side=16, window=8, merge=True))
    tokens = torch.randn(1, 256, 40, generator=torch.Generator().manual_seed(1))
    before, threads = tokens.clone(), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3, 5, 12, 40):
            torch.set_num_threads(count)
            found.append(IntegerStage(stage, bits)(tokens))
    finally:
        torch.set_num_threads(threads)
    assert torch_threads()
    monkeypatch.setattr("salm.models.integer.torch_threads", lambda: None)  # a torch with other threads
    found.append(IntegerStage(stage, bits)(tokens))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert torch.equal(tokens, before)
    with torch.inference_mode():
        assert lowest_cosine(found[0], stage(tokens)) > {8: 0.999, 16: 0.9999}[bits]


def test_no_clips_give_no_tokens(bits):
    stage = SwinStage(width=16, depth=1, num_heads=2, side=8, window=8, merge=True)
    assert IntegerStage(stage, bits)(torch.zeros(0, 64, 16)).shape == (0, 16, 32)


def test_silent_tokens_stay_finite(bits):
    torch.manual_seed(0)
    stage = SwinStage(width=16, depth=2, num_heads=2, side=8, window=8, merge=True).eval()
    tokens = torch.zeros(1, 64, 16)
    with torch.inference_mode():
        torch.testing.assert_close(
            IntegerStage(stage, bits)(tokens), stage(tokens), atol={8: 5e-2, 16: 1e-3}[bits], rtol=0
        )


@pytest.mark.parametrize("inputs", [8, 96, 3072])
@pytest.mark.parametrize("integers", [INTEGERS[8], WITHOUT_VNNI, INTEGERS[16]], ids=["8", "8 without VNNI", "16"])
def test_no_sum_of_integer_products_leaves_its_bits(inputs, integers):
    weight = torch.randn(5, inputs, generator=GENERATOR) * torch.tensor([1.0, 1e-6, 1e4, 0.0, 1.0])[:, None]
    weight[4] = 1.0  # all equal: the most that a row can add up to
    whole, worth = integer_weights(weight, integers)
    largest_input = integers.largest_input + integers.added
    assert int(whole.long().abs().sum(dim=1).max()) * largest_input <= LARGEST_SUM
    assert int(whole.long().abs().amax()) <= integers.largest_weight
    assert not whole[3].any()
    error = (whole * worth[:, None] - weight).abs().amax(dim=1)
    assert torch.all(error <= 0.501 * worth) and torch.isfinite(worth).all()
    if integers.largest_four is not None:
        fours = sums_of_four(whole.long())
        assert fours[[0, 1, 2, 4]].amax(dim=1).min() >= 124 and fours.max() * largest_input <= 2**15 - 1
    if integers.dtype == torch.int16:
        typical = weight.abs().mean(dim=1)[[0, 1, 2]]
        # Finer than bfloat16's 1/256 of a weight, plus or minus a half.
        assert torch.all(worth[[0, 1, 2]] < typical / 80)


def test_merging_order_is_that_of_patch_merging():
    # Neighbours (0, 0), (1, 0), (0, 1), (1, 1) in (row, column) of an image of 4 x 4.
    assert merging_order(4).view(-1, 4)[:2].tolist() == [[0, 4, 1, 5], [2, 6, 3, 7]]


def test_sizes_that_do_not_fit_are_refused(bits):
    with pytest.raises(ConfigError, match="multiple of 8 .* multiple of 16 tokens, got width 12 and 64 tokens"):
        IntegerStage(SwinStage(width=12, depth=1, num_heads=2, side=8, window=8, merge=False), bits)
    with pytest.raises(ConfigError, match="got width 16 and 4 tokens; use 'float32'"):
        IntegerStage(SwinStage(width=16, depth=1, num_heads=2, side=8, window=2, merge=False), bits)
    large = SwinStage(width=16, depth=1, num_heads=2, side=12, window=12, merge=False)
    if bits == 16:
        with pytest.raises(ConfigError, match="windows of at most 128 tokens .* got 144 tokens and heads of width 8"):
            IntegerStage(large, bits)
    else:
        tokens = torch.randn(1, 144, 16, generator=GENERATOR)
        with torch.inference_mode():
            assert lowest_cosine(IntegerStage(large.eval(), bits)(tokens), large(tokens)) > 0.999


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"amx", "bf16_units", "avx2"}, "bfloat16"),
        ({"bf16_units", "avx2"}, "int8"),
        ({"bf16_units"}, "bfloat16"),
        ({"avx2"}, "int8"),
        (set(), "float32"),
    ],
)
def test_auto_takes_what_suits_the_processor(processor, expected, monkeypatch):
    for name in ("amx", "bf16_units"):
        monkeypatch.setattr(f"salm.models.precision.has_{name}", lambda name=name: name in processor)
    monkeypatch.setattr("salm.models.integer.has_avx2", lambda: "avx2" in processor)
    never_called = SimpleNamespace(**{f"salm_{name}": SimpleNamespace() for name in ("patches", "stage", "tower")})
    monkeypatch.setattr("salm.models.integer.compiled_library", lambda *_: never_called)
    assert find_precision("auto", torch.device("cpu")) == expected
    assert find_precision("float32", torch.device("cpu")) == "float32"


def test_other_processors_are_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    for bits in (8, 16):
        with pytest.raises(DependencyError, match=rf"'int{bits}' needs .* AVX2, .* \(aarch64\) is none; use 'float32'"):
            integer_library(bits)


def test_order_of_the_weights_that_meet_in_16_bits():
    # VPMADDUBSW sums neighbours; the sums of two groups of four, place by place, are then added.
    weight = torch.tensor([[1, 10, 100, 1000, 2, 20, 200, -2000]])
    assert sums_of_four(weight).tolist() == [[33, 1300, 0, 2000]]
