"""Stages of a branch with 16-bit matrix products: for x86-64 processors that have AVX2 and no bf16 units.

Such a processor multiplies and adds twice as many 16-bit integers as floats in a cycle. The inputs of each matrix
product are rounded to 13 bits, token by token (their largest magnitude becomes 4,095), the weights to as many as fit:
output by output they are scaled such that no sum can leave 32 bits, whatever the inputs are. That leaves 15 bits to
rows of 96 weights and about 10 to rows of 3,072, where bf16 has 8 everywhere. All else is float32.

The arithmetic is in `swin_int16.c`, which is compiled on first use (`salm.models.compiled`).
"""

import ctypes
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn
from torch.nn import functional

from salm.errors import ConfigError
from salm.models.compiled import compiled_library
from salm.models.htsat import PatchMerging, SwinBlock, SwinStage, merging_order, window_order

SOURCE = Path(__file__).with_name("swin_int16.c")
LARGEST_INPUT, LARGEST_WEIGHT, LARGEST_SUM = 4095, 2**15 - 1, 2**31 - 1
PANEL, LANES = 16, 8
"""Outputs that are computed together, and floats of a vector: sizes are padded to multiples of them."""


class Int16Stage(nn.Module):
    """`SwinStage` for inference on a CPU.

    Raises:
        ConfigError: the stage is on a GPU, or its widths are no whole vectors of 8 floats.
        DependencyError: see `compiled_library`.
    """

    def __init__(self, stage: SwinStage) -> None:
        super().__init__()
        library = compiled_library(SOURCE)
        library.salm_block.argtypes = [ctypes.POINTER(_Block), *_ARGUMENTS]
        library.salm_merge.argtypes = [ctypes.POINTER(_Merge), ctypes.c_void_p, *_ARGUMENTS]
        self._library = library
        self._blocks = [_packed_block(block) for block in stage.blocks]  # type: ignore[arg-type]
        self._merge = None if stage.downsample is None else _packed_merge(stage.downsample)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch out_tokens out_width"]:
        tokens = tokens.clone(memory_format=torch.contiguous_format)  # the blocks work in place
        for block in self._blocks:
            run = partial(self._library.salm_block, ctypes.byref(block), tokens.data_ptr())
            _share_out(run, len(tokens) * block.windows)
        if self._merge is None:
            return tokens
        merged = tokens.new_empty(len(tokens), self._merge.out_tokens, 2 * self._merge.width)
        run = partial(self._library.salm_merge, ctypes.byref(self._merge), tokens.data_ptr(), merged.data_ptr())
        _share_out(run, len(tokens) * self._merge.out_tokens)
        return merged


class _Structure(ctypes.Structure):
    """A structure of `swin_int16.c`; tensors that it points to live as long as it does."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**{name: _address(value) for name, value in values.items()})
        self.kept = values


def _address(value: Any) -> Any:
    return value.data_ptr() if isinstance(value, Tensor) else value


_ARGUMENTS = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class _Linear(_Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias")),
        *((name, ctypes.c_int64) for name in ("in", "out")),
    )


class _Norm(_Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_float))


class _Block(_Structure):
    _fields_ = (
        *((name, _Norm) for name in ("norm1", "norm2")),
        *((name, _Linear) for name in ("qkv", "proj", "fc1", "fc2")),
        *((name, ctypes.c_void_p) for name in ("bias", "order")),
        *((name, ctypes.c_int64) for name in ("width", "heads", "head_width", "tokens", "windows", "biases")),
    )


class _Merge(_Structure):
    _fields_ = (
        ("norm", _Norm),
        ("reduction", _Linear),
        ("order", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("out_tokens", ctypes.c_int64),
    )


def _packed_block(block: SwinBlock) -> _Block:
    attention, width, tokens = block.attn, block.norm1.weight.numel(), block.window**2
    if block.norm1.weight.device.type != "cpu":
        raise ConfigError("precision 'int16' is for CPUs; use 'bfloat16' on a GPU")
    if width % LANES or tokens % LANES:
        raise ConfigError(
            f"precision 'int16' needs widths and windows of a multiple of {LANES}, got width {width} and {tokens} "
            "tokens in a window; use 'float32'"
        )
    heads = attention.num_heads
    head_width = width // heads
    padding = -head_width % LANES
    bias = attention.position_bias().detach()[None]
    bias = (bias if block._mask is None else bias + block._mask[:, None]).contiguous()
    # (3, heads, head_width) outputs become (heads, 3, padded head_width), with the scale in the queries.
    weight = torch.cat([attention.qkv.weight, attention.qkv.bias[:, None]], dim=1).detach()
    weight = weight.view(3, heads, head_width, width + 1) * torch.tensor([attention.scale, 1, 1]).view(3, 1, 1, 1)
    weight = functional.pad(weight.transpose(0, 1), (0, 0, 0, padding)).flatten(0, 2)
    mixing = functional.pad(attention.proj.weight.detach().view(width, heads, head_width), (0, padding)).flatten(1)
    return _Block(
        norm1=_packed_norm(block.norm1),
        norm2=_packed_norm(block.norm2),
        qkv=_packed_linear(weight[:, :-1], weight[:, -1]),
        proj=_packed_linear(mixing, attention.proj.bias),
        fc1=_packed_linear(block.mlp.fc1.weight, block.mlp.fc1.bias),
        fc2=_packed_linear(block.mlp.fc2.weight, block.mlp.fc2.bias),
        bias=bias,
        order=window_order(block.side, block.window, block.shift),
        width=width,
        heads=heads,
        head_width=head_width + padding,
        tokens=tokens,
        windows=block.side**2 // tokens,
        biases=len(bias),
    )


def _packed_merge(merging: PatchMerging) -> _Merge:
    return _Merge(
        norm=_packed_norm(merging.norm),
        reduction=_packed_linear(merging.reduction.weight),
        order=merging_order(merging.side),
        width=merging.norm.weight.numel() // 4,
        out_tokens=merging.side**2 // 4,
    )


def _packed_norm(norm: nn.LayerNorm) -> _Norm:
    return _Norm(weight=norm.weight.detach().clone(), bias=norm.bias.detach().clone(), eps=norm.eps)


def _packed_linear(weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"] | None = None) -> _Linear:
    whole, scale = integer_weights(weight.detach())
    bias = torch.zeros(len(scale)) if bias is None else bias.detach()
    padding = -len(scale) % PANEL
    whole = functional.pad(whole, (0, 0, 0, padding))
    panels = whole.view(-1, PANEL, whole.shape[1] // 2, 2).transpose(1, 2).contiguous()
    values: dict[str, Any] = {"scale": functional.pad(scale, (0, padding)), "bias": functional.pad(bias, (0, padding))}
    return _Linear(weight=panels, **values, **{"in": whole.shape[1], "out": len(whole)})


def integer_weights(
    weight: Float[Tensor, "out in"],
) -> tuple[Int16[Tensor, "out in"], Float[Tensor, "out"]]:
    """Weights as integers, and what one is worth in each row.

    No product of a row with integers of at most `LARGEST_INPUT` in magnitude leaves 32 bits.
    """
    largest_total = LARGEST_SUM / LARGEST_INPUT - weight.shape[1] / 2  # rounding adds at most a half to each weight
    total = weight.double().abs().sum(dim=1)
    factor = (largest_total / total).minimum(LARGEST_WEIGHT / weight.double().abs().amax(dim=1))
    factor = torch.where(total > 0, factor, 1.0)
    return (weight * factor[:, None]).round().short(), (1 / factor).float()


def _share_out(run: Callable[[int, int], int], count: int) -> None:
    """Call `run(first, last)` for all of `count` on as many threads as torch may use; ctypes lets go of Python's lock.

    Raises:
        MemoryError: a call gave 0.
    """
    threads = min(torch.get_num_threads(), count)
    edges = [count * number // threads for number in range(threads + 1)]
    done = [0] * threads

    def part(number: int) -> None:
        done[number] = run(edges[number], edges[number + 1])

    others = [threading.Thread(target=part, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    part(0)
    for thread in others:
        thread.join()
    if not all(done):
        raise MemoryError("not enough memory for a block of the audio tower")
