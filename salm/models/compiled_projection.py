"""`Projection` of single vectors as compiled code, in float32, for x86-64 processors with AVX2.

For one clip the products are few, and the weights come from memory each time: this fetches them ahead, which torch
(2.11) does not, and needs half of its time.
"""

import ctypes
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from salm.compiled import Structure, compiled_library, fastest_vectors
from salm.models.integer import check_place

SOURCE = Path(__file__).with_name("projection.c")
PANEL = 32
"""Outputs that are computed together, as in the source."""


class _Layer(Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("in", ctypes.c_int64), ("out", ctypes.c_int64))


class CompiledProjection(nn.Module):
    """A projection for inference on a CPU.

    Args:
        projection: linear, ReLU, linear; see `fits`.
        needed_for: see `compiled_library`.

    Raises:
        ConfigError: it is on a GPU.
        DependencyError: see `compiled_library`.
    """

    def __init__(self, projection: nn.Sequential, needed_for: str) -> None:
        super().__init__()
        first, second = _layers(projection)
        check_place(first.weight)
        self._function = compiled_library(SOURCE, fastest_vectors(needed_for), needed_for).salm_project
        self._function.restype = None
        self._function.argtypes = [*2 * (ctypes.POINTER(_Layer),), *3 * (ctypes.c_void_p,), ctypes.c_int64]
        self._first, self._second = _packed(first), _packed(second)

    @staticmethod
    def fits(projection: nn.Sequential) -> bool:
        """Whether its widths are those that the source can have."""
        return all(layer.in_features % 2 == 0 and layer.out_features % PANEL == 0 for layer in _layers(projection))

    def forward(self, vectors: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        vectors = vectors.float().contiguous()
        hidden, out = vectors.new_empty(self._first.out), vectors.new_empty(len(vectors), self._second.out)
        pointers = (part.data_ptr() for part in (vectors, hidden, out))
        self._function(ctypes.byref(self._first), ctypes.byref(self._second), *pointers, len(vectors))
        return out


def _layers(projection: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in projection if isinstance(layer, nn.Linear)]


def _packed(layer: nn.Linear) -> _Layer:
    weight = layer.weight.detach().float()
    sizes = {"in": layer.in_features, "out": layer.out_features}
    panels = weight.view(-1, PANEL, layer.in_features).transpose(1, 2).contiguous()
    return _Layer(weight=panels, bias=layer.bias.detach().float().clone(), **sizes)
