"""HTSAT, the audio transformer of both branches: a Swin transformer over a folded log-mel image.

Source: HTS-AT, Chen et al. 2022 (Swin: Liu et al. 2021). Parameter names follow the public checkpoints, so that
`salm.weights.convert` maps keys by prefix alone.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from salm.errors import ConfigError

PATCH = 4
IMAGE_SIZE = 256
"""Side of the folded image: 64 mels x 4 stacked quarters of the time axis, each 256 frames long."""
IMAGE_FRAMES = 1024
"""Frames of a clip once padded to fill the folded image."""


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens, with a relative-position bias.

    Two equal paths: training multiplies the probabilities out (on a CPU the gradient of the bias through fused
    attention is 3 to 4 times slower); inference folds the windows into the head axis of fused attention, so that one
    bias of shape (windows * heads, tokens, tokens) is broadcast over the batch.
    """

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.scale = (width // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        offsets = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = offsets[:, :, None] - offsets[:, None, :] + window - 1
        self.register_buffer("_bias_index", relative[0] * (2 * window - 1) + relative[1], persistent=False)
        self._bias_index: Tensor

    def position_bias(self) -> Float[Tensor, "heads tokens tokens"]:
        """The bias between every pair of tokens of a window."""
        return self.relative_position_bias_table[self._bias_index].permute(2, 0, 1)

    def forward(
        self, windows: Float[Tensor, "batch windows tokens width"], mask: Float[Tensor, "windows tokens tokens"] | None
    ) -> Float[Tensor, "batch windows tokens width"]:
        batch, count, tokens, width = windows.shape
        qkv = self.qkv(windows).view(batch, count, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each (batch, windows, heads, tokens, head width)
        bias = self.position_bias()[None]
        if mask is not None:
            bias = bias + mask[:, None].to(bias.dtype)
        if torch.is_grad_enabled():
            scores = (query * self.scale) @ key.transpose(-1, -2) + bias.to(query.dtype)
            mixed = scores.softmax(dim=-1) @ value
        else:
            folded = bias.expand(count, -1, -1, -1).flatten(0, 1).to(query.dtype)
            mixed = functional.scaled_dot_product_attention(
                query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2), attn_mask=folded[None], scale=self.scale
            ).unflatten(1, (count, self.num_heads))
        return self.proj(mixed.transpose(2, 3).reshape(batch, count, tokens, width))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each behind a layer norm; `shift` rolls the image before it is windowed."""

    def __init__(self, width: int, num_heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, num_heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.register_buffer("_mask", _shift_mask(side, window, shift) if shift else None, persistent=False)
        self._mask: Tensor | None

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        tokens = tokens + self._attend(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, _, width = tokens.shape
        side, window, per_side = self.side, self.window, self.side // self.window
        image = tokens.view(batch, side, side, width)
        if self.shift:
            image = image.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = image.view(batch, per_side, window, per_side, window, width).transpose(2, 3)
        attended = self.attn(windows.reshape(batch, per_side**2, window**2, width), self._mask)
        image = attended.view(batch, per_side, per_side, window, window, width).transpose(2, 3)
        image = image.reshape(batch, side, side, width)
        if self.shift:
            image = image.roll((self.shift, self.shift), dims=(1, 2))
        return image.view(batch, side**2, width)


class PatchMerging(nn.Module):
    """Joins each 2 x 2 neighbourhood of tokens into one of twice the width."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch fewer_tokens twice_width"]:
        batch, _, width = tokens.shape
        half = self.side // 2
        # Order of the four neighbours as in Swin: (0, 0), (1, 0), (0, 1), (1, 1) in (row, column).
        joined = tokens.view(batch, half, 2, half, 2, width).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(joined.reshape(batch, half * half, 4 * width)))


class SwinStage(nn.Module):
    """Blocks at one resolution, then (but in the last stage) patch merging."""

    def __init__(self, width: int, depth: int, num_heads: int, side: int, window: int, merge: bool) -> None:
        super().__init__()
        fits = side > window  # a single window needs no shift
        self.blocks = nn.ModuleList(
            SwinBlock(width, num_heads, side, min(window, side), window // 2 if fits and index % 2 else 0)
            for index in range(depth)
        )
        self.downsample = PatchMerging(width, side) if merge else None

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch out_tokens out_width"]:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens if self.downsample is None else self.downsample(tokens)


class PatchEmbed(nn.Module):
    """4 x 4 patches of the folded image to tokens."""

    def __init__(self, num_maps: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(num_maps, width, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Float[Tensor, "batch maps side side"]) -> Float[Tensor, "batch tokens width"]:
        return self.norm(self.proj(image).flatten(2).transpose(1, 2))


class HTSAT(nn.Module):
    """One branch: folded image in, final tokens out.

    The stages are public (`patch_embed`, `layers`, `norm`), because the dual encoder couples two branches before
    each of them.

    Args:
        num_maps: feature maps read.
        width: tokens' width in the first stage; doubles at each further stage.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window: side of the attention windows in tokens.
    """

    def __init__(
        self, *, num_maps: int, width: int, depths: Sequence[int], num_heads: Sequence[int], window: int = 8
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads):
            raise ConfigError(f"expected one head count per stage, got depths {depths} and heads {num_heads}")
        sides = [IMAGE_SIZE // PATCH >> stage for stage in range(len(depths))]
        widths = [width << stage for stage in range(len(depths))]
        for stage_width, heads, side in zip(widths, num_heads, sides, strict=True):
            if stage_width % heads or side % min(window, side):
                raise ConfigError(f"{heads} heads of width {stage_width}, window {window} of side {side}: no fit")
        self.patch_embed = PatchEmbed(num_maps, width)
        self.layers = nn.ModuleList(
            SwinStage(widths[i], depths[i], num_heads[i], sides[i], window, merge=i < len(depths) - 1)
            for i in range(len(depths))
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.sizes: dict[str, Any] = {
            "width": width,
            "depths": tuple(depths),
            "num_heads": tuple(num_heads),
            "window": window,
        }
        self.stage_widths = tuple(widths)
        self.out_width = widths[-1]
        self.apply(_init_linear)

    def forward(self, image: Float[Tensor, "batch maps side side"]) -> Float[Tensor, "batch tokens width"]:
        tokens = self.patch_embed(image)
        for stage in self.layers:
            tokens = stage(tokens)
        return self.norm(tokens)


def fold_image(maps: Float[Tensor, "batch maps mels frames"]) -> Float[Tensor, "batch maps 256 256"]:
    """Zero-pad the time axis to 1024 frames and stack its four quarters along the mel axis (mels before frames).

    Raises:
        ConfigError: see `check_image_size`.
    """
    batch, count, mels, frames = maps.shape
    check_image_size(mels, frames)
    quarters = IMAGE_FRAMES // IMAGE_SIZE
    padded = functional.pad(maps, (0, IMAGE_FRAMES - frames))
    return padded.unflatten(-1, (quarters, IMAGE_SIZE)).transpose(2, 3).reshape(batch, count, IMAGE_SIZE, IMAGE_SIZE)


def check_image_size(mels: int, frames: int) -> None:
    """Raise a `ConfigError` where maps do not have 64 mels, or have more than 1024 frames."""
    if mels * (IMAGE_FRAMES // IMAGE_SIZE) != IMAGE_SIZE or frames > IMAGE_FRAMES:
        raise ConfigError(f"expected 64 mels and at most {IMAGE_FRAMES} frames, got {mels} mels and {frames} frames")


def stretch_time(maps: Float[Tensor, "batch maps mels frames"]) -> Float[Tensor, "batch maps mels 1024"]:
    """Stretch the time axis to 1024 frames, bicubic with aligned corners: what HTS-AT and LAION-CLAP do before folding.

    PSELDNets and SALM zero-pad instead (`fold_image`); converted CLAP towers need this. By hand, since
    `functional.interpolate` (torch 2.11, CPU) interpolates the mels as well and takes five times as long.
    """
    places, weights = bicubic_taps(maps.shape[-1])
    frames = maps.transpose(-1, -2).contiguous()
    stretched = frames.new_zeros(*frames.shape[:-2], IMAGE_FRAMES, frames.shape[-1])
    for place, weight in zip(places.to(maps.device), weights.to(maps), strict=True):
        stretched.addcmul_(frames.index_select(-2, place), weight[:, None])
    return stretched.transpose(-1, -2)


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # what is kept must serve training as well
def bicubic_taps(count: int) -> tuple[Int[Tensor, "taps frames"], Float[Tensor, "taps frames"]]:
    """Places and weights of the four frames out of `count` that each stretched frame is made of.

    Source: cubic convolution, Keys 1981, eq. 4, with the slope -0.75 that torch has.
    """
    slope = -0.75
    exact = torch.arange(IMAGE_FRAMES) * torch.tensor((count - 1) / (IMAGE_FRAMES - 1))  # float32, as in torch
    offsets = torch.arange(-1, 3)[:, None]
    distance = (exact - exact.floor() - offsets).abs()
    near = ((slope + 2) * distance - (slope + 3)) * distance.square() + 1
    far = ((slope * distance - 5 * slope) * distance + 8 * slope) * distance - 4 * slope
    return (exact.floor().long() + offsets).clamp(0, count - 1), torch.where(distance <= 1, near, far)


def time_tokens(tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch times width"]:
    """Final tokens in order of time, averaged over frequency: 32 of 0.32 s each for a 10 s clip."""
    side = round(tokens.shape[1] ** 0.5)
    per_quarter = tokens.unflatten(1, (IMAGE_FRAMES // IMAGE_SIZE, -1, side))  # batch, quarter, frequency, time, width
    return per_quarter.mean(dim=2).flatten(1, 2)


def window_order(side: int, window: int, shift: int) -> Int[Tensor, "tokens"]:
    """Places of an image's tokens, window by window, after it was rolled by `shift` up and left: as in `SwinBlock`."""
    places = torch.arange(side**2).view(side, side).roll((-shift, -shift), dims=(0, 1))
    return places.view(side // window, window, side // window, window).transpose(1, 2).flatten()


def merging_order(side: int) -> Int[Tensor, "tokens"]:
    """Places of an image's tokens, four neighbours after four neighbours, as `PatchMerging` joins them."""
    return torch.arange(side**2).view(side // 2, 2, side // 2, 2).permute(0, 2, 3, 1).flatten()


def _shift_mask(side: int, window: int, shift: int) -> Tensor:
    """(windows, tokens, tokens): 0 within a region, -100 across the seams that rolling brings together."""
    region = torch.zeros(side, side)
    spans = (slice(0, side - window), slice(side - window, side - shift), slice(side - shift, side))
    for number, (rows, columns) in enumerate((r, c) for r in spans for c in spans):
        region[rows, columns] = number
    per_side = side // window
    regions = region.view(per_side, window, per_side, window).transpose(1, 2).reshape(per_side**2, window**2)
    return (regions[:, None, :] != regions[:, :, None]).float() * -100.0


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
