"""Convolutions with batch norm: how they are put together, how they lie in memory, how they become one layer."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def convolution(
    width: int,
    out: int,
    kernel: int,
    *,
    stride: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), its batch norm, and the activation if there is one."""
    layers: list[nn.Module] = [
        nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=eps),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


def lay_channels_last(module: nn.Module) -> None:
    """Lay the kernels of all convolutions out with the channels last, whereupon their maps follow.

    With the channels first they take one and a half to four times as long on a CPU (torch 2.11). `Tensor.contiguous`
    is not enough: it leaves kernels of one channel or one bin as they are, and their strides decide too.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fuse_batch_norms(module: nn.Module) -> None:
    """Make every batch norm of a module in evaluation mode a part of the convolution before it."""
    for name, child in module.named_children():
        layers = list(child.children())
        if len(layers) > 1 and isinstance(layers[0], nn.Conv2d) and isinstance(layers[1], nn.BatchNorm2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(layers[0], layers[1]), *layers[2:]))
        else:
            fuse_batch_norms(child)
