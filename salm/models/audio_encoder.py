"""The dual audio tower: a semantic and a spatial HTSAT branch, coupled by cross-stitch before every stage."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salm.audio.features import LOG_MEL_FLOOR_DB
from salm.errors import ConfigError
from salm.models.htsat import HTSAT, fold_image, time_tokens


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
        weight = self.weight.to(first.dtype)
        first = first * weight[:, 0, 0] + second * weight[:, 0, 1]
        second = first * weight[:, 1, 0] + second * weight[:, 1, 1]
        return first, second


class MapNorm(nn.Module):
    """Batch norm of each map over its mel axis: one scale and shift per map and mel."""

    def __init__(self, num_maps: int, num_mels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_maps * num_mels)

    def forward(self, maps: Float[Tensor, "batch maps mels frames"]) -> Float[Tensor, "batch maps mels frames"]:
        return self.norm(maps.flatten(1, 2)).view(maps.shape)


class AudioEncoder(nn.Module):
    """Seven feature maps to the tokens of a semantic and a spatial branch.

    Args:
        num_maps: maps that the spatial branch reads.
        num_semantic_maps: leading maps that the semantic branch reads: 1 (log-mel of W) in SALM, 4 in PSELDNets.
        num_mels: mel bands of each map.
        width, depths, num_heads, window: sizes of each branch, see `HTSAT`.
    """

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
    ) -> None:
        super().__init__()
        if not 1 <= num_semantic_maps <= num_maps:
            raise ConfigError(f"expected 1 to {num_maps} semantic maps, got {num_semantic_maps}")
        self.num_semantic_maps = num_semantic_maps
        self.map_norm = MapNorm(num_maps, num_mels)
        self.semantic, self.spatial = (
            HTSAT(num_maps=count, width=width, depths=depths, num_heads=num_heads, window=window)
            for count in (num_semantic_maps, num_maps)
        )
        self.stitches = nn.ModuleList(CrossStitch(stage_width) for stage_width in self.semantic.stage_widths)
        self.out_width = self.semantic.out_width

    def forward(
        self, features: Float[Tensor, "batch maps frames mels"]
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch tokens width"]]:
        """Final, normalised tokens of the semantic and of the spatial branch."""
        image = fold_image(self.map_norm(features.transpose(-1, -2)))
        semantic = self.semantic.patch_embed(image[:, : self.num_semantic_maps])
        spatial = self.spatial.patch_embed(image)
        stages = zip(self.stitches, self.semantic.layers, self.spatial.layers, strict=True)
        for stitch, semantic_stage, spatial_stage in stages:
            semantic, spatial = stitch(semantic, spatial)
            semantic, spatial = semantic_stage(semantic), spatial_stage(spatial)
        return self.semantic.norm(semantic), self.spatial.norm(spatial)

    def pool(
        self, features: Float[Tensor, "batch maps frames mels"]
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch width"]]:
        """The two branches' vectors before the projections: final tokens averaged over time and frequency."""
        semantic, spatial = self(features)
        return semantic.mean(dim=1), spatial.mean(dim=1)

    def pool_mono(self, features: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch width"]:
        """Semantic vector of a log-mel map alone, as if the same pressure had arrived without any direction.

        The spatial branch then reads a diffuse field: the dipoles' log-mel maps follow W's at -4.8 dB (SN3D: a third
        of its power), and the intensity is zero.
        """
        dipoles = (features - 10.0 * math.log10(3.0)).clamp_min(LOG_MEL_FLOOR_DB).expand(-1, 3, -1, -1)
        still = torch.zeros_like(dipoles)
        return self.pool(torch.cat([features, dipoles, still], dim=1))[0]

    def semantic_tokens(
        self, features: Float[Tensor, "batch maps frames mels"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Final tokens of the semantic branch while the spatial branch is silent, at half the cost of both."""
        image = fold_image(self.map_norm(features.transpose(-1, -2)))
        tokens = self.semantic.patch_embed(image[:, : self.num_semantic_maps])
        for stitch, stage in zip(self.stitches, self.semantic.layers, strict=True):
            tokens = stage(stitch(tokens, torch.zeros_like(tokens))[0])
        return self.semantic.norm(tokens)

    def pool_spans(
        self, features: Float[Tensor, "batch maps frames mels"], spans: Sequence[tuple[int, int]]
    ) -> tuple[Float[Tensor, "batch spans width"], Float[Tensor, "batch spans width"]]:
        """As `pool`, for several spans (first, end) of the clip in 0.32 s tokens: for training on joined clips."""
        semantic, spatial = self(features)
        return pool_tokens(semantic, spans), pool_tokens(spatial, spans)


def pool_tokens(
    tokens: Float[Tensor, "batch tokens width"], spans: Sequence[tuple[int, int]]
) -> Float[Tensor, "batch spans width"]:
    """Mean of the final tokens over frequency and each span (first, end) of time."""
    in_time = time_tokens(tokens)
    return torch.stack([in_time[:, first:end].mean(dim=1) for first, end in spans], dim=1)
