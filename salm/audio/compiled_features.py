"""The maps of `salm.audio.features` by compiled code: on processors with AVX2 in half the time, and without GIL."""

import ctypes
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from salm.compiled import AVX2, AVX512_VNNI, compiled_library
from salm.processor import has_vnni

SOURCE = Path(__file__).with_name("feature_maps.c")
LANES, MAX_MAPS = 8, 7
"""Floats of a vector, and maps at most: as in the source."""
FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")
"""What lets a compiler write loops in vectors."""


class _Filters(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "first", "last", "start")),
        *((name, ctypes.c_int64) for name in ("bins", "padded_bins", "mels")),
        ("intensity_floor", ctypes.c_float),
    )


class CompiledMaps:
    """Linear maps of spectra: mel power of each channel, and of four the intensity vector.

    Args:
        mel_weights: the filterbank.
        intensity_floor: see `salm.audio.features`.
        needed_for: see `compiled_library`.

    Raises:
        DependencyError: see `compiled_library`.
    """

    def __init__(self, mel_weights: Float[Tensor, "bins mels"], intensity_floor: float, needed_for: str) -> None:
        instructions = AVX512_VNNI if has_vnni() else AVX2
        self._function = compiled_library(SOURCE, (*instructions, *FLAGS), needed_for).salm_feature_maps
        sizes = ctypes.c_int64, ctypes.c_int64
        self._function.argtypes = [*2 * (ctypes.c_void_p,), *sizes, *2 * (ctypes.c_void_p,), ctypes.c_int64]
        self._function.restype = None
        bins, mels = mel_weights.shape
        self._padded_bins = -(-bins // LANES) * LANES
        padded = functional.pad(mel_weights.cpu(), (0, 0, 0, self._padded_bins - bins))
        first, last, weights = [], [], []
        for filter_weights in padded.unbind(1):
            used = filter_weights.nonzero().flatten().tolist() or [0]
            length = -(-(used[-1] + 1 - used[0]) // LANES) * LANES
            first.append(min(used[0], self._padded_bins - length))
            last.append(first[-1] + length)
            weights.append(filter_weights[first[-1] : last[-1]])
        start = [0, *torch.tensor([len(part) for part in weights]).cumsum(0).tolist()][:-1]
        self._kept = torch.cat(weights), *map(torch.tensor, (first, last, start))
        addresses = (tensor.data_ptr() for tensor in self._kept)
        self._filters = _Filters(*addresses, bins, self._padded_bins, mels, intensity_floor)

    def write(
        self, spectra: Complex[Tensor, "channels frames bins"], maps: Float[Tensor, "maps all_frames mels"], first: int
    ) -> None:
        """Fill the maps of the spectra's frames, from frame `first` on; both tensors are contiguous."""
        channels, frames, _ = spectra.shape
        linear = torch.zeros(MAX_MAPS, self._padded_bins)
        filters, target = ctypes.addressof(self._filters), maps[0, first].data_ptr()
        self._function(filters, spectra.data_ptr(), channels, frames, linear.data_ptr(), target, maps.stride(0))
