"""Stages of a branch with matrix products of integers: the fastest on x86-64 processors.

With AVX-512 VNNI these multiply and add four times as many 8-bit integers as floats in a cycle, and twice as many as
bf16 numbers; with AVX2 alone, which only emulates bf16, more than twice as many 8-bit integers as floats, and somewhat
more 16-bit ones.

The inputs of each matrix product are rounded token by token: their largest magnitude becomes 127, or 4,095 (13 bits).
The weights are rounded output by output, to -127 to 127 or to as many bits as fit: no sum can leave 32 bits, whatever
the inputs are, which leaves 15 bits to rows of 96 weights and about 10 to rows of 3,072. Without VNNI four products of
8 bits meet in 16 bits, so weights are at most about -90 to 90, see `salm.models.integer_weights`. Attention rounds
queries, keys and values in the same way (without VNNI keys and values to -64 to 64), and probabilities to 1/255 or
1/4,095 of the row's largest. All else is float32, but for the bias of attention with 8 bits, which is half floats.

The arithmetic is in `swin_integer.c` and its headers, which are compiled on first use (`salm.compiled`).
"""

import ctypes
import math
import platform
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.compiled import AVX2, AVX512_VNNI, Structure, compiled_library, torch_threads
from salm.errors import ConfigError, DependencyError
from salm.models.htsat import (
    IMAGE_SIZE,
    PATCH,
    PatchEmbed,
    PatchMerging,
    SwinBlock,
    SwinStage,
    merging_order,
    window_order,
)
from salm.models.integer_weights import (
    INTEGERS,
    LANES,
    LARGEST_SUM,
    PANEL,
    in_panels,
    integer_weights,
    integers_here,
    whole_panels,
)
from salm.processor import has_avx2, has_vnni

SOURCE = Path(__file__).with_name("swin_integer.c")
LOG2_E = math.log2(math.e)
BIAS_DTYPES = {8: torch.float16, 16: torch.float32}
"""By bits: of the bias of attention, which is as large as a core's cache."""
LARGEST_BIAS = 6e4


def integer_library(bits: int) -> ctypes.CDLL:
    """The compiled `swin_integer.c`.

    Raises:
        DependencyError: this processor lacks the instructions, or see `compiled_library`.
    """
    check_processor(bits)
    library = compiled_library(SOURCE, integer_flags(bits), f"precision 'int{bits}'")
    clips_and_threads = (ctypes.c_int64, ctypes.c_void_p, ctypes.c_int)
    pointer, maps = ctypes.c_void_p, ctypes.c_int64
    library.salm_patches.argtypes = [ctypes.POINTER(_Patches), pointer, maps, pointer, *clips_and_threads]
    library.salm_stage.argtypes = [ctypes.POINTER(_Stage), *3 * (pointer,), *clips_and_threads]
    library.salm_tower.argtypes = [pointer, pointer, maps, pointer, *clips_and_threads]
    return library


def integer_flags(bits: int) -> tuple[str, ...]:
    """For the compiler: what this processor's instructions are, and the number of bits."""
    return *(AVX512_VNNI if bits == 8 and has_vnni() else AVX2), f"-DBITS={bits}"


def check_processor(bits: int) -> None:
    """Raise a `DependencyError` where this processor lacks the instructions."""
    if not has_avx2():
        raise DependencyError(
            f"precision 'int{bits}' needs an x86-64 processor with AVX2, and this one ({platform.machine()}) is none; "
            "use 'float32' or 'bfloat16'"
        )


class CompiledPatchEmbed(nn.Module):
    """`PatchEmbed` for inference on a CPU, in float32, by the code that `bits` compiles; see `IntegerStage`."""

    def __init__(self, embed: PatchEmbed, bits: int) -> None:
        super().__init__()
        self._library = integer_library(bits)
        self.patches = _packed_patches(embed, bits)

    def forward(self, image: Float[Tensor, "batch maps 256 256"]) -> Float[Tensor, "batch tokens width"]:
        image = as_read(image, self.patches.maps)
        tokens = image.new_empty(len(image), (IMAGE_SIZE // PATCH) ** 2, self.patches.width)
        images = _pointer(image), image.shape[1], _pointer(tokens)
        self._library.salm_patches(
            ctypes.byref(self.patches), *images, len(image), torch_threads(), torch.get_num_threads()
        )
        return tokens


def as_read(image: Tensor, maps: int) -> Float[Tensor, "batch maps 256 256"]:
    """An image as the source reads it, or a `ConfigError` where it has too few maps or another size."""
    if image.ndim != 4 or image.shape[1] < maps or image.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ConfigError(
            f"expected images of at least {maps} maps of {IMAGE_SIZE} x {IMAGE_SIZE}, got {tuple(image.shape)}"
        )
    return image.float().contiguous()


class IntegerStage(nn.Module):
    """`SwinStage` for inference on a CPU.

    Args:
        stage: whose weights are taken.
        bits: of the integers, 8 or 16.

    Raises:
        ConfigError: the stage is on a GPU, or its widths or windows do not fit.
        DependencyError: see `integer_library`.
    """

    def __init__(self, stage: SwinStage, bits: int) -> None:
        super().__init__()
        self._library = integer_library(bits)
        blocks = [_packed_block(block, bits) for block in stage.blocks]  # type: ignore[arg-type]
        self._merge = None if stage.downsample is None else _packed_merge(stage.downsample, bits)
        self._kept = blocks, (_Block * len(blocks))(*blocks)
        self.stage = _Stage(
            blocks=ctypes.addressof(self._kept[1]),
            count=len(blocks),
            merge=None if self._merge is None else ctypes.addressof(self._merge),
        )

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch out_tokens out_width"]:
        clips, merge = len(tokens), self._merge
        tokens = tokens.contiguous()
        out = merged = torch.empty_like(tokens)
        if merge is not None:
            merged = tokens.new_empty(clips, merge.out_tokens, 2 * merge.width)
        images = _pointer(tokens), _pointer(out), _pointer(merged)
        threads = torch_threads(), torch.get_num_threads()
        if not self._library.salm_stage(ctypes.byref(self.stage), *images, clips, *threads):
            raise MemoryError("not enough memory for a block of the audio tower")
        return merged


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class _Linear(Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "start", "scale", "bias")),
        *((name, ctypes.c_int64) for name in ("in", "out")),
    )


class Norm(Structure):
    """A layer norm as the source reads it."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_float))

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> "Norm":
        """With copies of its weights."""
        return cls(weight=norm.weight.detach().clone(), bias=norm.bias.detach().clone(), eps=norm.eps)


class _Patches(Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        ("norm", Norm),
        *((name, ctypes.c_int64) for name in ("maps", "width", "side")),
    )


class _Block(Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "proj", "fc1", "fc2")),
        *((name, ctypes.c_void_p) for name in ("bias", "kind", "order")),
        *((name, ctypes.c_int64) for name in ("width", "heads", "head_width", "tokens", "windows")),
        *((name, ctypes.c_float) for name in ("eps1", "eps2")),
    )


class _Merge(Structure):
    _fields_ = (
        ("reduction", _Linear),
        ("order", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("out_tokens", ctypes.c_int64),
        ("eps", ctypes.c_float),
    )


class _Stage(Structure):
    _fields_ = (("blocks", ctypes.c_void_p), ("count", ctypes.c_int64), ("merge", ctypes.c_void_p))


def _packed_patches(embed: PatchEmbed, bits: int) -> _Patches:
    width, maps = embed.proj.weight.shape[:2]
    check_place(embed.proj.weight)
    if width % LANES:
        raise ConfigError(f"precision 'int{bits}' needs widths of a multiple of {LANES}, got {width}; use 'float32'")
    return _Patches(
        weight=embed.proj.weight.detach().permute(1, 2, 3, 0).contiguous(),
        bias=embed.proj.bias.detach().clone(),  # type: ignore[union-attr]
        norm=Norm.of(embed.norm),
        maps=maps,
        width=width,
        side=IMAGE_SIZE,
    )


def _packed_block(block: SwinBlock, bits: int) -> _Block:
    attention, width, tokens = block.attn, block.norm1.weight.numel(), block.window**2
    check_place(block.norm1.weight)
    heads = attention.num_heads
    head_width = width // heads
    if width % LANES or tokens % PANEL:
        raise ConfigError(
            f"precision 'int{bits}' needs widths of a multiple of {LANES} and windows of a multiple of {PANEL} tokens, "
            f"got width {width} and {tokens} tokens; use 'float32'"
        )
    most = LARGEST_SUM // INTEGERS[bits].largest_input ** 2  # products that attention can sum in 32 bits
    if max(tokens, head_width) > most:
        raise ConfigError(
            f"precision 'int{bits}' needs windows of at most {most} tokens and heads at most as wide, got {tokens} "
            f"tokens and heads of width {head_width}; use 'float32'"
        )
    padding = -head_width % LANES
    bias, kind = attention.position_bias().detach()[None] * LOG2_E, torch.zeros(block.side**2 // tokens).long()
    if block._mask is not None:
        masks, kind = block._mask.unique(dim=0, return_inverse=True)  # most windows have none
        bias = bias + masks[:, None]
    # (3, heads, head_width) outputs become (heads, 3, padded head_width), with the scale in the queries.
    weight, bias_of_qkv = _behind_norm(block.norm1, attention.qkv)
    weight = torch.cat([weight, bias_of_qkv[:, None]], dim=1)
    weight = weight.view(3, heads, head_width, width + 1) * torch.tensor([attention.scale * LOG2_E, 1, 1]).view(
        3, 1, 1, 1
    )
    weight = functional.pad(weight.transpose(0, 1), (0, 0, 0, padding)).flatten(0, 2)
    mixing = functional.pad(attention.proj.weight.detach().view(width, heads, head_width), (0, padding)).flatten(1)
    return _Block(
        qkv=_packed_linear(bits, weight[:, :-1], weight[:, -1]),
        proj=_packed_linear(bits, mixing, attention.proj.bias),
        fc1=_packed_linear(bits, *_behind_norm(block.norm2, block.mlp.fc1)),
        fc2=_packed_linear(bits, block.mlp.fc2.weight, block.mlp.fc2.bias),
        bias=bias.clamp(-LARGEST_BIAS, LARGEST_BIAS).to(BIAS_DTYPES[bits]).contiguous(),
        kind=kind,
        order=window_order(block.side, block.window, block.shift),
        width=width,
        heads=heads,
        head_width=head_width + padding,
        tokens=tokens,
        windows=block.side**2 // tokens,
        eps1=block.norm1.eps,
        eps2=block.norm2.eps,
    )


def _packed_merge(merging: PatchMerging, bits: int) -> _Merge:
    if merging.side < 4:
        raise ConfigError(
            f"precision 'int{bits}' merges images of 4 x 4 tokens at least, got {merging.side}; use 'float32'"
        )
    return _Merge(
        reduction=_packed_linear(bits, *_behind_norm(merging.norm, merging.reduction)),
        order=merging_order(merging.side),
        width=merging.norm.weight.numel() // 4,
        out_tokens=merging.side**2 // 4,
        eps=merging.norm.eps,
    )


def check_place(weight: Tensor) -> None:
    """Raise a `ConfigError` where weights are not a CPU's."""
    if weight.device.type != "cpu":
        raise ConfigError("precision 'int8' and 'int16' are for CPUs; use 'bfloat16' on a GPU")


def _behind_norm(norm: nn.LayerNorm, layer: nn.Linear) -> tuple[Float[Tensor, "out in"], Float[Tensor, "out"]]:
    """Weight and bias of a layer, with those of the norm before it."""
    weight = layer.weight.detach()
    bias = weight @ norm.bias.detach()
    return weight * norm.weight.detach(), bias if layer.bias is None else bias + layer.bias.detach()


def _packed_linear(bits: int, weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"]) -> _Linear:
    integers = integers_here(bits)
    whole, scale = integer_weights(weight.detach(), integers)
    whole, scale, bias = (whole_panels(part) for part in (whole, scale, bias.detach()))
    start = (-integers.added * whole.sum(dim=1)).int()
    sizes = {"in": whole.shape[1], "out": len(whole)}
    return _Linear(weight=in_panels(whole, integers), start=start, scale=scale, bias=bias, **sizes)
