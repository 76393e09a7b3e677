"""The dual audio tower: a semantic and a spatial HTSAT branch, coupled by cross-stitch before every stage."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.audio.features import LOG_MEL_FLOOR_DB
from salm.config import BRANCHES
from salm.errors import ConfigError
from salm.models.arrival import ArrivalPooling
from salm.models.htsat import HTSAT, fold_image, stretch_time, time_tokens
from salm.models.timbre import TimbrePooling

Tokens = Float[Tensor, "batch tokens width"]
"""Final, normalised tokens of a branch."""
FRAMES_PER_TOKEN = 32
"""Feature frames (10 ms) of a final token along time, in towers of four stages."""


class CrossStitch(nn.Module):
    """A learnable 2 x 2 mix of two branches per channel.

    As in PSELDNets (EINV2), the second branch mixes with the first one as already mixed.

    Source: cross-stitch networks, Misra et al. 2016; its use on HTSAT: PSELDNets, Hu et al. 2025.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(width, 1, 1))

    def forward(
        self, first: Float[Tensor, "batch tokens width"], second: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch tokens width"]]:
        # Four contiguous vectors: products with strided ones take ten times as long.
        (own, taken), (given, kept) = self.weight.to(first.dtype).permute(1, 2, 0).contiguous()
        first = first * own + second * taken
        second = first * given + second * kept
        return first, second


class MapNorm(nn.Module):
    """Batch norm of each map over its mel axis: one scale and shift per map and mel.

    Several training processes norm by the statistics of their joint batch, on any device.
    """

    def __init__(self, num_maps: int, num_mels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_maps * num_mels)

    def forward(self, maps: Float[Tensor, "batch maps mels frames"]) -> Float[Tensor, "batch maps mels frames"]:
        flat = maps.flatten(1, 2)
        if self.training and _num_processes() > 1:
            return self._joint_norm(flat).view(maps.shape)
        return self.norm(flat).view(maps.shape)

    def image(
        self, features: Float[Tensor, "batch maps frames mels"], *, stretched: bool = False
    ) -> Float[Tensor, "batch maps 256 256"]:
        """The normed maps, folded as the branches read them.

        Args:
            features: of `FeatureExtractor`.
            stretched: in time to the whole image, as CLAP has it, and not padded with zeros.
        """
        maps = self(features.transpose(-1, -2))
        return fold_image(stretch_time(maps) if stretched else maps)

    def _joint_norm(self, flat: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        # torch's own SyncBatchNorm needs a GPU. The maps need no gradient, so neither do their statistics.
        norm: Any = self.norm
        sums = torch.stack([flat.sum(dim=(0, 2)), flat.square().sum(dim=(0, 2))]).detach().double()
        count = torch.full((1, sums.shape[1]), flat.numel() / flat.shape[1], dtype=sums.dtype, device=sums.device)
        totals = torch.cat([sums, count])
        torch.distributed.all_reduce(totals)
        mean, power, total = totals[0] / totals[2], totals[1] / totals[2], totals[2]
        variance = power - mean.square()
        norm.running_mean += norm.momentum * (mean - norm.running_mean).to(flat.dtype)
        norm.running_var += norm.momentum * (variance * total / (total - 1) - norm.running_var).to(flat.dtype)
        norm.num_batches_tracked += 1
        return functional.batch_norm(
            flat, mean.to(flat.dtype), variance.to(flat.dtype), norm.weight, norm.bias, training=False, eps=norm.eps
        )


class AudioEncoder(nn.Module):
    """Seven feature maps to the tokens of a semantic and a spatial branch.

    An encoder with one branch alone has no cross-stitch; the other branch's vectors are then zeros.

    Args:
        num_maps: maps that the spatial branch reads.
        num_semantic_maps: leading maps that the semantic branch reads: 1 (log-mel of W) in SALM, 4 in PSELDNets.
        num_mels: mel bands of each map.
        branches: which of the two there are.
        arrival_channels: width of the networks of `ArrivalPooling`, whose direction then stands behind the spatial
            branch's vector; 0 is the paper's encoder, without it.
        timbre_channels: width of `TimbrePooling`, whose vector then stands behind the semantic branch's; 0: without it.
        width, depths, num_heads, window: sizes of each branch, see `HTSAT`.

    Attributes:
        takes_batches: on a CPU `image_tokens` is faster with some clips at once, and gives each the same as alone. So
            it does in an encoder that `tuned_encoder` made with matrix products of integers.
    """

    takes_batches = False

    def __init__(
        self,
        *,
        width: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window: int = 8,
        num_maps: int = 7,
        num_semantic_maps: int = 1,
        num_mels: int = 64,
        branches: Sequence[str] = BRANCHES,
        arrival_channels: int = 0,
        timbre_channels: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= num_semantic_maps <= num_maps:
            raise ConfigError(f"expected 1 to {num_maps} semantic maps, got {num_semantic_maps}")
        self.num_semantic_maps = num_semantic_maps
        self.map_norm = MapNorm(num_maps, num_mels)
        self.semantic, self.spatial = (
            HTSAT(num_maps=count, width=width, depths=depths, num_heads=num_heads, window=window)
            if name in branches
            else None
            for name, count in zip(BRANCHES, (num_semantic_maps, num_maps), strict=True)
        )
        branch = self.spatial if self.semantic is None else self.semantic
        if branch is None:
            raise ConfigError(f"expected one or both of the branches {', '.join(BRANCHES)}, got {branches!r}")
        both = self.semantic is not None and self.spatial is not None
        self.stitches = nn.ModuleList(CrossStitch(stage_width) for stage_width in branch.stage_widths if both)
        self.out_width = branch.out_width
        self.arrival = ArrivalPooling(arrival_channels) if arrival_channels and self.spatial is not None else None
        self.spatial_width = self.out_width + (3 if self.arrival is not None else 0)
        hears = timbre_channels and self.semantic is not None
        self.timbre = TimbrePooling(timbre_channels, num_mels) if hears else None
        self.semantic_width = self.out_width + (0 if self.timbre is None else self.timbre.out_width)

    def forward(self, features: Float[Tensor, "batch maps frames mels"]) -> tuple[Tokens, Tokens]:
        """Final, normalised tokens of the semantic and of the spatial branch, (batch, tokens, width) each."""
        return self.image_tokens(self.image(features))

    def image(self, features: Float[Tensor, "batch maps frames mels"]) -> Float[Tensor, "batch maps 256 256"]:
        """The normed and folded maps that the branches read: the one step in which the clips of a batch meet."""
        return self.map_norm.image(features)

    def image_tokens(
        self, image: Float[Tensor, "batch maps 256 256"], *, semantic_alone: bool = False
    ) -> tuple[Tokens, Tokens]:
        """Final tokens of both branches.

        Args:
            image: of `image`.
            semantic_alone: leave the spatial branch silent, at half the cost; its tokens are then zeros.
        """
        log_mel = image[:, : self.num_semantic_maps]
        if self.semantic is None and self.spatial is not None:
            tokens = self.spatial(image)
            return torch.zeros_like(tokens), tokens
        if self.semantic is not None and self.spatial is None:
            tokens = self.semantic(log_mel)
            return tokens, torch.zeros_like(tokens)
        assert self.semantic is not None
        assert self.spatial is not None
        semantic = self.semantic.patch_embed(log_mel)
        spatial = torch.zeros_like(semantic) if semantic_alone else self.spatial.patch_embed(image)
        stages = zip(self.stitches, self.semantic.layers, self.spatial.layers, strict=True)
        for stitch, semantic_stage, spatial_stage in stages:
            semantic, spatial = stitch(semantic, spatial)
            semantic = semantic_stage(semantic)
            spatial = torch.zeros_like(semantic) if semantic_alone else spatial_stage(spatial)
        return self.semantic.norm(semantic), spatial if semantic_alone else self.spatial.norm(spatial)

    def pool(
        self, features: Float[Tensor, "batch maps frames mels"], tokens: tuple[Tokens, Tokens] | None = None
    ) -> tuple[Float[Tensor, "batch semantic_width"], Float[Tensor, "batch spatial_width"]]:
        """The two branches' vectors before the projections: final tokens averaged over time and frequency.

        Args:
            features: of `FeatureExtractor`.
            tokens: of these features, where they are known already.
        """
        semantic, spatial = (part.mean(dim=1) for part in (self(features) if tokens is None else tokens))
        semantic = self._with_timbre(semantic, features)
        if self.arrival is not None:
            spatial = self.with_arrival(spatial, self.arrival(features)[:, 0])
        return semantic, spatial

    def with_arrival(
        self, spatial: Float[Tensor, "*batch width"], estimates: Float[Tensor, "*batch stages 3"]
    ) -> Float[Tensor, "*batch spatial_width"]:
        """The spatial branch's vectors with the last estimate behind them, as long as a vector of normed tokens."""
        return torch.cat([spatial, estimates[..., -1, :].to(spatial.dtype) * math.sqrt(self.out_width)], dim=-1)

    def pool_mono(
        self, features: Float[Tensor, "batch 1 frames mels"], tokens: tuple[Tokens, Tokens] | None = None
    ) -> Float[Tensor, "batch semantic_width"]:
        """Semantic vector of a log-mel map alone, as if the same pressure had arrived without any direction.

        Args:
            features: of `FeatureExtractor`.
            tokens: of `diffuse_maps` of these features, where they are known already.
        """
        semantic = (self(diffuse_maps(features)) if tokens is None else tokens)[0]
        return self._with_timbre(semantic.mean(dim=1), features)

    def _with_timbre(self, semantic: Tensor, features: Tensor) -> Tensor:
        if self.timbre is None:
            return semantic
        return torch.cat([semantic, self.timbre(features[:, :1])[:, 0]], dim=-1)


def diffuse_maps(features: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch 7 frames mels"]:
    """All maps of a diffuse field with this log-mel map.

    The dipoles' log-mel maps follow W's at -4.8 dB (SN3D: a third of its power), and the intensity is zero.
    """
    dipoles = (features - 10.0 * math.log10(3.0)).clamp_min(LOG_MEL_FLOOR_DB).expand(-1, 3, -1, -1)
    return torch.cat([features, dipoles, torch.zeros_like(dipoles)], dim=1)


def _num_processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def pool_spans(
    tokens: Float[Tensor, "batch tokens width"], spans: Sequence[tuple[int, int]]
) -> Float[Tensor, "batch spans width"]:
    """Mean of final tokens over frequency and each span (first, end) of 0.32 s tokens: for training on joined clips."""
    in_time = time_tokens(tokens)
    return torch.stack([in_time[:, first:end].mean(dim=1) for first, end in spans], dim=1)


def frame_spans(spans: Sequence[tuple[int, int]], num_frames: int) -> tuple[tuple[int, int], ...]:
    """The feature frames (first, end) of spans of time tokens, within a clip of `num_frames`."""
    return tuple((first * FRAMES_PER_TOKEN, min(end * FRAMES_PER_TOKEN, num_frames)) for first, end in spans)
