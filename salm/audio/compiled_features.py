"""The maps of `salm.audio.features` by compiled code, for x86-64 processors with AVX2: four to seven times as fast."""

import ctypes
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from salm.compiled import Structure, compiled_library, fastest_vectors, torch_threads

SOURCE = Path(__file__).with_name("feature_maps.c")
LARGEST_RADIX = 8
NUM_MAPS = {1: 1, 4: 7}
"""By the number of channels."""


class _Features(Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("window", "radices", "twiddles", "places", "turns")),
        *((name, ctypes.c_void_p) for name in ("weights", "first", "last", "start")),
        *((name, ctypes.c_int64) for name in ("size", "passes", "hop", "mels")),
        *((name, ctypes.c_float) for name in ("power_floor", "intensity_floor")),
    )


class CompiledMaps:
    """Maps of clips: the log-mel map of each channel, and of four the intensity vector.

    Args:
        window: of a frame, a power of two from 16 on.
        hop_samples: from one frame to the next.
        mel_weights: the filterbank.
        power_floor, intensity_floor: see `salm.audio.features`.
        needed_for: see `compiled_library`.

    Raises:
        DependencyError: see `compiled_library`.
    """

    def __init__(
        self,
        window: Float[Tensor, "fft"],
        hop_samples: int,
        mel_weights: Float[Tensor, "bins mels"],
        *,
        power_floor: float,
        intensity_floor: float,
        needed_for: str,
    ) -> None:
        self._function = compiled_library(SOURCE, fastest_vectors(needed_for), needed_for).salm_feature_maps
        self._function.argtypes = [
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int),
        ]
        size = len(window) // 2
        radices = transform_radices(size)
        tables = {
            "window": window.cpu().float() / 2,
            "radices": torch.tensor(radices),
            "twiddles": _twiddles(size, radices),
            "places": transform_places(size, radices),
            "turns": _turns(torch.arange(size // 2 + 1), 2 * size),
            **_bands(mel_weights.cpu()),
        }
        self._features = _Features(
            **{name: table.contiguous() for name, table in tables.items()},
            size=size,
            passes=len(radices),
            hop=hop_samples,
            mels=mel_weights.shape[1],
            power_floor=power_floor,
            intensity_floor=intensity_floor,
        )

    def __call__(self, samples: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch maps frames mels"]:
        """One map for one channel, seven for four; `FeatureExtractor` checks the sizes."""
        samples = samples.float().contiguous()
        clips, channels, length = samples.shape
        features = self._features
        maps = samples.new_empty(clips, NUM_MAPS[channels], length // features.hop + 1, features.mels)
        for clip, out in zip(samples, maps, strict=True):
            done = self._function(
                *(ctypes.addressof(features), clip.data_ptr(), channels, length),
                *(out.data_ptr(), out.stride(0), torch_threads(), torch.get_num_threads()),
            )
            if not done:
                raise MemoryError("not enough memory for the feature maps of a clip")
        return maps


def can_transform(fft_samples: int) -> bool:
    """Whether `CompiledMaps` has frames of this length."""
    return fft_samples >= 2 * LARGEST_RADIX and fft_samples.bit_count() == 1


def transform_radices(size: int) -> list[int]:
    """Radix of each pass of a Fourier transform: 8, and 2 or 4 for what remains."""
    radices = []
    while size > 1:
        radices.append(min(size, LARGEST_RADIX))
        size //= radices[-1]
    return radices


def transform_places(size: int, radices: list[int]) -> Tensor:
    """Where decimation in frequency leaves each bin, the last one being the first again."""
    places, bins, block = torch.zeros(size + 1).long(), torch.arange(size + 1) % size, size
    for radix in radices:
        block //= radix
        places += bins % radix * block
        bins //= radix
    return places


def _twiddles(size: int, radices: list[int]) -> Tensor:
    """Pass by pass (block / radix, radix - 1, 2): e^(-2 pi i jk / block)."""
    parts, block = [], size
    for radix in radices:
        parts.append(_turns(torch.outer(torch.arange(block // radix), torch.arange(1, radix)), block).flatten())
        block //= radix
    return torch.cat(parts)


def _turns(numbers: Tensor, of: int) -> Float[Tensor, "*numbers 2"]:
    angles = numbers.double() * (-2 * math.pi / of)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _bands(mel_weights: Float[Tensor, "bins mels"]) -> dict[str, Any]:
    """The bins of each filter without the zeros around them."""
    first, last, weights = [], [], []
    for band in mel_weights.unbind(1):
        used = band.nonzero().flatten().tolist() or [0]
        first.append(used[0])
        last.append(used[-1] + 1)
        weights.append(band[first[-1] : last[-1]])
    start = torch.tensor([0, *map(len, weights)]).cumsum(0)[:-1]
    return {"weights": torch.cat(weights), "first": torch.tensor(first), "last": torch.tensor(last), "start": start}
