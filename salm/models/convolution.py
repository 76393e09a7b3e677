"""Convolutions with batch norm: how they are put together, and how they become one layer for inference."""

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


def fuse_batch_norms(module: nn.Module) -> None:
    """Make every batch norm of a module in evaluation mode a part of the convolution before it."""
    for name, child in module.named_children():
        layers = list(child.children())
        if len(layers) > 1 and isinstance(layers[0], nn.Conv2d) and isinstance(layers[1], nn.BatchNorm2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(layers[0], layers[1]), *layers[2:]))
        else:
            fuse_batch_norms(child)
