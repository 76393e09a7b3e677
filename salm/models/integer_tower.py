"""One branch, or both and what couples them, from image to final tokens in one call of `swin_integer.c`.

Between many small calls threads of Python would wait for each other, and mixing two branches takes torch a pass over
memory for each of its steps.
"""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salm.compiled import Structure, torch_threads
from salm.models.audio_encoder import CrossStitch
from salm.models.htsat import HTSAT, IMAGE_SIZE, PATCH
from salm.models.integer import CompiledPatchEmbed, IntegerStage, Norm, as_read, integer_library


class _Branch(Structure):
    _fields_ = (("patches", ctypes.c_void_p), ("stages", ctypes.c_void_p), ("norm", ctypes.c_void_p))


class _Tower(Structure):
    _fields_ = (("branches", 2 * ctypes.c_void_p), ("stitches", ctypes.c_void_p), ("stages", ctypes.c_int64))


class IntegerTower:
    """Branches for inference on a CPU.

    Args:
        branches: one or two of the same sizes, whose weights are taken; each reads the image's first maps.
        stitches: of each stage, between two branches; none for one.
        bits: of the integers, 8 or 16.

    Raises:
        ConfigError: they are on a GPU, or see `IntegerStage`.
        DependencyError: see `integer_library`.
    """

    def __init__(self, branches: Sequence[HTSAT], stitches: Sequence[CrossStitch], bits: int) -> None:
        self._library = integer_library(bits)
        self._embeds = [CompiledPatchEmbed(branch.patch_embed, bits) for branch in branches]
        self._stages = [[IntegerStage(stage, bits) for stage in branch.layers] for branch in branches]  # type: ignore[arg-type]
        self._norms = [Norm.of(branch.norm) for branch in branches]
        self._stitches = [stitch.weight.detach().float().permute(1, 2, 0).contiguous() for stitch in stitches]
        self._lists = [_pointers([ctypes.addressof(stage.stage) for stage in stages]) for stages in self._stages]
        self._branches = [
            _Branch(
                patches=ctypes.addressof(embed.patches),
                stages=ctypes.addressof(stages),
                norm=ctypes.addressof(norm),
            )
            for embed, stages, norm in zip(self._embeds, self._lists, self._norms, strict=True)
        ]
        self._weights = _pointers([weight.data_ptr() for weight in self._stitches])
        addresses = [ctypes.addressof(branch) for branch in self._branches]
        self._tower = _Tower(
            branches=(2 * ctypes.c_void_p)(*addresses),
            stitches=ctypes.addressof(self._weights),
            stages=len(self._stages[0]),
        )
        merges = len(self._stages[0]) - 1
        self._tokens, self._width = (IMAGE_SIZE // PATCH >> merges) ** 2, branches[0].out_width

    def __call__(self, image: Float[Tensor, "batch maps 256 256"]) -> tuple[Float[Tensor, "batch tokens width"], ...]:
        """The final, normalised tokens of each branch.

        Raises:
            ConfigError: fewer maps than a branch reads, or images of another size.
        """
        image = as_read(image, max(embed.patches.maps for embed in self._embeds))
        clips, maps = image.shape[:2]
        out = [image.new_empty(clips, self._tokens, self._width) for _ in self._embeds]
        places = image.data_ptr(), maps, _pointers([part.data_ptr() for part in out])
        threads = torch_threads(), torch.get_num_threads()
        if not self._library.salm_tower(ctypes.byref(self._tower), *places, clips, *threads):
            raise MemoryError("not enough memory for the audio tower")
        return tuple(out)


class IntegerBranch(nn.Module):
    """A branch alone, see `IntegerTower`."""

    def __init__(self, branch: HTSAT, bits: int) -> None:
        super().__init__()
        self._tower = IntegerTower([branch], [], bits)

    def forward(self, image: Float[Tensor, "batch maps 256 256"]) -> Float[Tensor, "batch tokens width"]:
        return self._tower(image)[0]


def _pointers(addresses: Sequence[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (len(addresses) * ctypes.c_void_p)(*addresses)
