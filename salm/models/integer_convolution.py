"""`TimbrePooling` with 8-bit integers on x86-64 with AVX-512 VNNI: what `salm.models.integer` is to a branch.

The maps that a convolution reads come from rectifiers: each is rounded to 0 to 255, of which 255 is the largest number
in the whole map, and the weights to -127 to 127, output by output. The first convolution, whose input has signs, stays
float32, and so do residual sums.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.compiled import AVX512_VNNI, compiled_library, torch_threads
from salm.models.integer import INTEGERS, LANES, PANEL, Structure, check_place, check_processor, integer_weights
from salm.models.timbre import ResidualBlock, TimbrePooling

SOURCE = Path(__file__).with_name("integer_convolution.c")
PLAIN, RECTIFIED, ADDED = range(3)
"""Results of a convolution, as in the source."""
BORDER = 1
"""Zeros around a rounded map, on each side."""


def convolution_library() -> ctypes.CDLL:
    """The compiled `integer_convolution.c`.

    Raises:
        DependencyError: this processor lacks the instructions, or see `compiled_library`.
    """
    check_processor(8)
    library = compiled_library(SOURCE, (*AVX512_VNNI, "-DBITS=8"), "precision 'int8'")
    sizes, threads = 2 * (ctypes.c_int64,), (ctypes.c_void_p, ctypes.c_int)
    pointer = ctypes.c_void_p
    library.salm_convolve.argtypes = [
        *(ctypes.POINTER(_Convolution), ctypes.c_int, pointer, ctypes.c_float, pointer),
        *(*sizes, *threads),
    ]
    library.salm_convolve.restype = None
    library.salm_round_map.argtypes = [pointer, ctypes.c_int, pointer, *sizes, ctypes.c_int64, *threads]
    library.salm_round_map.restype = ctypes.c_float
    return library


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
        self._library = convolution_library()
        self._timbre = timbre
        first, *blocks, last = timbre.layers
        self._first = first
        self._blocks = [_packed_block(block) for block in blocks]  # type: ignore[arg-type]
        self._last = _packed_convolution(last[0])  # type: ignore[index]
        self.out_width = timbre.out_width

    def forward(self, log_mel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch 1 width"]:
        """One vector for each clip, see `TimbrePooling.forward`."""
        maps = self._first(self._timbre.padded(log_mel))
        last = [self._last_map(one) for one in maps.permute(0, 2, 3, 1).contiguous()]
        return self._timbre.pool(torch.stack(last).permute(0, 3, 1, 2))

    def _last_map(self, maps: Float[Tensor, "mels frames width"]) -> Float[Tensor, "few_mels tokens out_width"]:
        for block in self._blocks:
            rounded = self._rounded(maps, halve=block.halves)
            if block.skip is not None:
                maps = self._convolved(block.skip, PLAIN, rounded)
            inner = self._rounded(self._convolved(block.first, RECTIFIED, rounded))
            maps = self._convolved(block.second, ADDED, inner, onto=maps)
        return self._convolved(self._last, RECTIFIED, self._rounded(maps))

    def _rounded(self, maps: Float[Tensor, "lines columns width"], *, halve: bool = False) -> "_Rounded":
        lines, columns, width = maps.shape
        if halve:
            lines, columns = lines // 2, columns // 2
        whole = torch.zeros(lines + 2 * BORDER, columns + 2 * BORDER, width, dtype=torch.uint8)
        threads = torch_threads(), torch.get_num_threads()
        worth = self._library.salm_round_map(maps.data_ptr(), halve, whole.data_ptr(), lines, columns, width, *threads)
        return _Rounded(whole, worth, lines, columns)

    def _convolved(
        self, layer: "_Convolution", result: int, maps: "_Rounded", onto: Tensor | None = None
    ) -> Float[Tensor, "lines columns out_width"]:
        out = torch.empty(maps.lines, maps.columns, layer.out) if onto is None else onto
        self._library.salm_convolve(
            *(ctypes.byref(layer), result, maps.whole.data_ptr(), maps.worth, out.data_ptr()),
            *(maps.lines, maps.columns, torch_threads(), torch.get_num_threads()),
        )
        return out


@dataclass(frozen=True)
class _Rounded:
    """A map in integers with its border, and what one of them is worth."""

    whole: Tensor
    worth: float
    lines: int
    columns: int


@dataclass(frozen=True)
class _Block:
    halves: bool
    skip: "_Convolution | None"
    first: "_Convolution"
    second: "_Convolution"


class _Convolution(Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias")),
        *((name, ctypes.c_int64) for name in ("kernel", "in", "out")),
    )


def fits(timbre: TimbrePooling) -> bool:
    """Whether all widths are whole vectors."""
    return all(width % LANES == 0 for width in timbre.widths)


def _packed_block(block: ResidualBlock) -> _Block:
    first, second = block.block
    return _Block(
        halves=not isinstance(block.pool, nn.Identity),
        skip=None if isinstance(block.skip, nn.Identity) else _packed_convolution(block.skip),
        first=_packed_convolution(first[0]),
        second=_packed_convolution(second[0]),
    )


def _packed_convolution(layer: nn.Conv2d) -> _Convolution:
    check_place(layer.weight)
    integers = INTEGERS[8]
    out, width, kernel, _ = layer.weight.shape
    lines = layer.weight.detach().permute(0, 2, 3, 1).reshape(out, -1)  # (out, kernel lines * columns * width)
    whole, scale = integer_weights(lines, integers)
    padding = -out % PANEL
    whole = functional.pad(whole, (0, 0, 0, padding))
    panels = whole.view(-1, PANEL, whole.shape[1] // integers.group, integers.group).transpose(1, 2)
    bias = torch.zeros(out) if layer.bias is None else layer.bias.detach()
    values: dict[str, Any] = {"weight": panels.contiguous(), "kernel": kernel, "in": width, "out": out}
    return _Convolution(scale=functional.pad(scale, (0, padding)), bias=functional.pad(bias, (0, padding)), **values)
