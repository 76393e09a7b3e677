"""`TimbrePooling` with 8-bit integers on x86-64 with AVX2: what `salm.models.integer` is to a branch.

The maps that a convolution reads come from rectifiers: each is rounded to 0 to 255, of which 255 is the largest number
in the whole map, and the weights to -127 to 127, output by output. The first convolution, whose input has signs, stays
float32, and so do residual sums.

Rounding the weights costs most, as inputs without a sign have a mean, which every pixel's errors add up to. So what the
rounded weights make of the channels' means is put right in the bias (Nagel et al. 2019, here with each clip's own
means), and the sums of weights are kept by rounding some the other way, since neighbouring bins are alike.
"""

import ctypes
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from salm.compiled import Structure, compiled_library, torch_threads
from salm.models.integer import check_place, check_processor, integer_flags
from salm.models.integer_weights import LANES, in_panels, integers_here, sum_keeping_integers, whole_panels
from salm.models.timbre import ResidualBlock, TimbrePooling

SOURCE = Path(__file__).with_name("integer_convolution.c")
BITS = 8
BORDER = 1
"""Zeros around a rounded map, on each side."""
Maps = Float[Tensor, "lines columns channels"]
OtherMaps = Float[Tensor, "other_lines other_columns other_channels"]


class Result(IntEnum):
    """What becomes of a convolution's outputs, as in the source: added is to what is there, then rectified."""

    PLAIN, RECTIFIED, ADDED = range(3)


@dataclass(frozen=True)
class RoundedMaps:
    """Maps in integers, with a border.

    Attributes:
        whole: the integers.
        worth: what one of them is.
        means: of each channel.
    """

    whole: UInt8[Tensor, "lines_and_border columns_and_border channels"]
    worth: float
    means: Float[Tensor, "channels"]


class _Convolution(Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale")),
        *((name, ctypes.c_int64) for name in ("kernel", "in", "out")),
    )


@dataclass(frozen=True)
class PackedConvolution:
    """A convolution as `integer_convolution.c` reads it.

    Attributes:
        layer: weights and sizes.
        bias: one for each output, then zeros.
        error: what rounding took from the weights, summed over the kernel.
    """

    layer: _Convolution
    bias: Float[Tensor, "outs"]
    error: Float[Tensor, "outs channels"]


@lru_cache
def convolution_library() -> ctypes.CDLL:
    """The compiled `integer_convolution.c`.

    Raises:
        DependencyError: this processor lacks the instructions, or see `compiled_library`.
    """
    check_processor(BITS)
    library = compiled_library(SOURCE, integer_flags(BITS), f"precision 'int{BITS}'")
    pointer, size, number, true_or_not = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    threads = pointer, ctypes.c_int
    convolution = ctypes.POINTER(_Convolution)
    library.salm_convolve.argtypes = [
        *(convolution, pointer, ctypes.c_int, pointer, number, pointer),
        *(size, size, *threads),
    ]
    library.salm_convolve.restype = None
    library.salm_round_map.argtypes = [pointer, true_or_not, pointer, pointer, size, size, size, *threads]
    library.salm_round_map.restype = number
    return library


def pack_convolution(layer: nn.Conv2d) -> PackedConvolution:
    """A convolution of 1 x 1 or 3 x 3 that keeps the size, of a multiple of 8 channels each.

    Raises:
        ConfigError: it is on a GPU.
    """
    check_place(layer.weight)
    out, width, kernel, _ = layer.weight.shape
    weight = layer.weight.detach().permute(0, 2, 3, 1).flatten(1, 2)
    integers = integers_here(BITS)
    whole, scale = sum_keeping_integers(weight, integers)
    error = (weight - whole * scale[:, None, None]).sum(dim=1)
    bias = torch.zeros(out) if layer.bias is None else layer.bias.detach()
    panels = in_panels(whole_panels(whole.flatten(1)), integers)
    sizes = {"kernel": kernel, "in": width, "out": out}
    return PackedConvolution(
        layer=_Convolution(weight=panels, scale=whole_panels(scale), **sizes),
        bias=whole_panels(bias),
        error=whole_panels(error),
    )


def round_maps(maps: Maps, *, halve: bool = False) -> RoundedMaps:
    """Maps that are not negative, of a multiple of 8 channels; `halve`: lines and columns averaged in pairs before."""
    lines, columns, channels = maps.shape
    if halve:
        lines, columns = lines // 2, columns // 2
    whole = torch.zeros(lines + 2 * BORDER, columns + 2 * BORDER, channels, dtype=torch.uint8)
    totals = torch.zeros(channels, dtype=torch.int64)
    places = maps.data_ptr(), halve, whole.data_ptr(), totals.data_ptr()
    worth = convolution_library().salm_round_map(*places, lines, columns, channels, *_threads())
    return RoundedMaps(whole, worth, totals.float() * (worth / (lines * columns)))


def convolve(convolution: PackedConvolution, maps: RoundedMaps, result: Result, onto: Maps | None = None) -> Maps:
    """Outputs of a convolution; `onto`: what they are added to, in place."""
    lines, columns = (side - 2 * BORDER for side in maps.whole.shape[:2])
    out = torch.empty(lines, columns, convolution.layer.out) if onto is None else onto
    bias = torch.addmv(convolution.bias, convolution.error, maps.means)
    places = maps.whole.data_ptr(), maps.worth, out.data_ptr()
    convolution_library().salm_convolve(
        *(ctypes.byref(convolution.layer), bias.data_ptr(), result, *places),
        *(lines, columns, *_threads()),
    )
    return out


class IntegerTimbre(nn.Module):
    """`TimbrePooling` for inference on a CPU.

    Args:
        timbre: whose weights are taken; its batch norms are parts of the convolutions already.

    Raises:
        ConfigError: it is on a GPU.
        DependencyError: see `convolution_library`.
    """

    def __init__(self, timbre: TimbrePooling) -> None:
        super().__init__()
        convolution_library()
        self._timbre = timbre
        self._first, *blocks, last = timbre.layers
        self._blocks = [_PackedBlock(block) for block in blocks]  # type: ignore[arg-type]
        self._last = pack_convolution(last[0])  # type: ignore[index]
        self.out_width = timbre.out_width

    def forward(self, log_mel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch 1 width"]:
        """One vector for each clip, see `TimbrePooling.forward`."""
        first = self._first(self._timbre.padded(log_mel)).permute(0, 2, 3, 1).contiguous()
        return self._timbre.pool(torch.stack([self._last_maps(maps) for maps in first]).permute(0, 3, 1, 2))

    @staticmethod
    def fits(timbre: TimbrePooling) -> bool:
        """Whether all widths are whole vectors."""
        return all(width % LANES == 0 for width in timbre.widths)

    def _last_maps(self, maps: Maps) -> OtherMaps:
        for block in self._blocks:
            maps = block(maps)
        return convolve(self._last, round_maps(maps), Result.RECTIFIED)


class _PackedBlock:
    """`ResidualBlock`; may overwrite what it reads."""

    def __init__(self, block: ResidualBlock) -> None:
        self.halves = not isinstance(block.pool, nn.Identity)
        self.skip = None if isinstance(block.skip, nn.Identity) else pack_convolution(block.skip)
        self.first, self.second = (pack_convolution(part[0]) for part in block.block)  # type: ignore[index]

    def __call__(self, maps: Maps) -> OtherMaps:
        rounded = round_maps(maps, halve=self.halves)
        if self.skip is not None:
            maps = convolve(self.skip, rounded, Result.PLAIN)
        inner = round_maps(convolve(self.first, rounded, Result.RECTIFIED))
        return convolve(self.second, inner, Result.ADDED, onto=maps)


def _threads() -> tuple[ctypes.c_void_p, int]:
    return torch_threads(), torch.get_num_threads()
