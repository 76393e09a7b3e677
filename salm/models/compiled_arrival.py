"""The two networks of `ArrivalPooling` as compiled code, in float32, for x86-64 processors with AVX2.

Eight channels are too few for the convolutions of torch (2.11), which take twice as long.
"""

import ctypes
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.compiled import Structure, compiled_library, fastest_vectors, torch_threads
from salm.models.integer import check_place

SOURCE = Path(__file__).with_name("arrival.c")
CHANNELS = 8
"""Of both convolutions, as in the source, where the mels are a multiple of it as well: the towers' maps have 64."""


class _Network(Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("first", "first_bias", "second", "second_bias", "last")),
        *((name, ctypes.c_int64) for name in ("cues", "lines", "columns")),
        ("last_bias", ctypes.c_float),
    )


class CompiledWeights(nn.Module):
    """One of the networks, for inference on a CPU.

    Args:
        network: convolution, rectifier, convolution of 3 x 3, rectifier, convolution of 1 x 1 to one channel.
        needed_for: see `compiled_library`.

    Raises:
        ConfigError: it is on a GPU.
        DependencyError: see `compiled_library`.
    """

    def __init__(self, network: nn.Sequential, needed_for: str) -> None:
        super().__init__()
        self._function = compiled_library(SOURCE, fastest_vectors(needed_for), needed_for).salm_arrival
        sizes, pointers = 2 * (ctypes.c_int64,), 2 * (ctypes.c_void_p,)
        self._function.argtypes = [ctypes.POINTER(_Network), *pointers, *sizes, ctypes.c_void_p, ctypes.c_int]
        convolutions: list[nn.Conv2d] = [layer for layer in network if isinstance(layer, nn.Conv2d)]
        first, second, last = convolutions
        biases = [layer.bias.detach().clone() for layer in convolutions if layer.bias is not None]
        check_place(first.weight)
        self._network = _Network(
            first=_taps_first(first),
            first_bias=biases[0],
            second=_taps_first(second),
            second_bias=biases[1],
            last=last.weight.detach().flatten().clone(),
            last_bias=float(biases[2]),
            cues=first.in_channels,
            lines=first.kernel_size[0],
            columns=first.kernel_size[1],
        )
        around_lines, around_columns = first.kernel_size[0] // 2, first.kernel_size[1] // 2
        self._border = (around_columns, around_columns, around_lines, around_lines)

    @staticmethod
    def fit(network: nn.Sequential) -> bool:
        """Whether this is a network of eight channels."""
        return bool(network[0].out_channels == CHANNELS)

    def forward(self, cues: Float[Tensor, "batch cues frames mels"]) -> Float[Tensor, "batch 1 frames mels"]:
        """Logarithms of the bins' weights."""
        batch, _, frames, mels = cues.shape
        logits = cues.new_empty(batch, 1, frames, mels)
        for clip, out in zip(functional.pad(cues, self._border), logits, strict=True):
            places = ctypes.byref(self._network), clip.data_ptr(), out.data_ptr()
            if not self._function(*places, frames, mels, torch_threads(), torch.get_num_threads()):
                raise MemoryError("not enough memory for the weights of a clip's intensity vectors")
        return logits


def _taps_first(layer: nn.Conv2d) -> Float[Tensor, "lines columns inputs channels"]:
    return layer.weight.detach().permute(2, 3, 1, 0).contiguous()
