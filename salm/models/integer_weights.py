"""Weights as integers, and how the sources of `salm.models.integer` and of `integer_convolution` read them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional

from salm.processor import has_vnni

LARGEST_SUM = 2**31 - 1
PANEL, LANES = 16, 8
"""Outputs that are computed together, and floats of a vector: sizes are padded to multiples of them."""


@dataclass(frozen=True)
class Integers:
    """How the factors of a matrix product are rounded.

    Attributes:
        largest_input, largest_weight: their magnitudes at most.
        added: to each input, so that it has no sign.
        group: products that become a part of one sum together.
        dtype: of the weights.
        largest_four: sum of the weights of one sign at most, of four that meet in 16 bits; None: none do.
    """

    largest_input: int
    largest_weight: int
    added: int
    group: int
    dtype: torch.dtype
    largest_four: int | None = None


INTEGERS = {
    8: Integers(largest_input=127, largest_weight=127, added=128, group=4, dtype=torch.int8),
    16: Integers(largest_input=4095, largest_weight=2**15 - 1, added=0, group=2, dtype=torch.int16),
}
WITHOUT_VNNI = replace(INTEGERS[8], largest_four=128)
"""8 bits for processors with AVX2 alone: 255 times 128 is the most that 16 bits hold."""


def integers_here(bits: int) -> Integers:
    """How this processor needs them."""
    return WITHOUT_VNNI if bits == 8 and not has_vnni() else INTEGERS[bits]


def integer_weights(
    weight: Float[Tensor, "out in"], integers: Integers
) -> tuple[Int[Tensor, "out in"], Float[Tensor, "out"]]:
    """Weights as integers, and what one is worth in each row.

    No product of a row with inputs of at most `largest_input` in magnitude leaves 32 bits, nor a part of it 16 bits
    where four products meet in them.
    """
    largest_total = LARGEST_SUM / integers.largest_input - weight.shape[1] / 2  # rounding adds at most a half to each
    total = weight.double().abs().sum(dim=1)
    factor = (largest_total / total).minimum(integers.largest_weight / weight.double().abs().amax(dim=1))
    if integers.largest_four is not None:
        largest_four = integers.largest_four - 2.0  # again a half for each
        factor = factor.minimum(largest_four / sums_of_four(weight.double()).amax(dim=1))
    factor = torch.where(total > 0, factor, 1.0)
    return (weight * factor[:, None]).round().to(integers.dtype), (1 / factor).float()


def sums_of_four(weight: Num[Tensor, "out in"]) -> Num[Tensor, "out sums"]:
    """Magnitudes of the positive and of the negative weights, summed over those that meet in 16 bits without VNNI.

    These are the first two, or the last two, of each of two neighbouring groups.
    """
    fours = weight.unflatten(1, (-1, 2, 2, 2)).transpose(2, 3).flatten(-2).flatten(1, -2)
    return torch.cat([part.clamp_min(0).sum(dim=-1) for part in (fours, -fours)], dim=1)


def sum_keeping_integers(
    weight: Float[Tensor, "out taps inputs"], integers: Integers
) -> tuple[Int[Tensor, "out taps inputs"], Float[Tensor, "out"]]:
    """Weights as integers, and what one is worth in each output: their sums over the taps of each input, and over all,
    are as near to the weights' as integers can be.

    The largest is one less than it might be, as sums are corrected by steps of one. For 8 bits: products of fewer than
    66,000 weights with inputs of at most 255 do not leave 32 bits.
    """
    largest = weight.abs().amax(dim=(1, 2))
    factor = torch.where(largest > 0, (integers.largest_weight - 1) / largest, 1.0)
    if integers.largest_four is not None:
        largest_four = integers.largest_four - 8.0  # here a weight moves by less than two
        factor = factor.minimum(largest_four / sums_of_four(weight.flatten(1)).amax(dim=1))
    exact = weight.double() * factor[:, None, None]
    whole = _with_sums(exact, exact.round())
    whole = _with_sums(exact.flatten(1)[..., None], whole.flatten(1)[..., None]).view(weight.shape)
    return whole.clamp(-integers.largest_weight, integers.largest_weight).to(integers.dtype), (1 / factor).float()


def _with_sums(
    exact: Float[Tensor, "out places inputs"], whole: Float[Tensor, "out places inputs"]
) -> Float[Tensor, "out places inputs"]:
    """Integers whose sums over the places are the nearest to the exact ones, by steps of one where they cost least."""
    error = exact - whole
    steps = error.sum(dim=1, keepdim=True).round()
    rank = (error * steps.sign()).argsort(dim=1, descending=True).argsort(dim=1)
    return whole + (rank < steps.abs()) * steps.sign()


def whole_panels(rows: Tensor) -> Tensor:
    """With zeros behind the rows, or numbers, of the outputs, so that these are a multiple of `PANEL`."""
    return functional.pad(rows, (*(0, 0) * (rows.ndim - 1), 0, -len(rows) % PANEL))


def in_panels(whole: Int[Tensor, "outs in"], integers: Integers) -> Int[Tensor, "panels groups lanes group"]:
    """Rows of whole panels as the sources read them: the group of each of a panel's outputs, then the next group."""
    return whole.view(-1, PANEL, whole.shape[1] // integers.group, integers.group).transpose(1, 2).contiguous()
