"""What sounds, by a small residual convolutional network over the log-mel map of W.

It is beside the semantic branch what `salm.models.arrival` is beside the spatial one. A transformer of a few million
weights learns to hear slowly; that neighbouring bins belong together is built into convolutions.

Source: residual blocks: He et al. 2016; convolutional networks that tag log-mel maps: PANNs, Kong et al. 2020.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.models.convolution import convolution, lay_channels_last
from salm.models.htsat import IMAGE_FRAMES

WIDTHS = (1, 2, 4, 8, 11)
"""Of the blocks, as multiples of the first one's."""
OUT_WIDTH = 16
"""Of the layer behind them, in the same unit."""


class TimbrePooling(nn.Module):
    """Log-mel maps to vectors of what sounds.

    Args:
        channels: width of the first block.
        num_mels: mel bands of the map.
    """

    def __init__(self, channels: int = 24, num_mels: int = 64) -> None:
        super().__init__()
        widths = [channels * factor for factor in WIDTHS]
        self.norm = nn.BatchNorm1d(num_mels)
        self.layers = nn.Sequential(
            convolution(1, channels, 5, stride=(1, 2), activation=nn.ReLU(inplace=True)),
            *(
                ResidualBlock(width, out, halve=number > 0)
                for number, (width, out) in enumerate(zip([channels, *widths[:-1]], widths, strict=True))
            ),
            convolution(widths[-1], channels * OUT_WIDTH, 1, activation=nn.ReLU(inplace=True)),
        )
        self.out_width = channels * OUT_WIDTH
        self.widths = (*widths[:-1], self.out_width)
        lay_channels_last(self.layers)

    def forward(
        self, log_mel: Float[Tensor, "batch 1 frames mels"], spans: Sequence[tuple[int, int]] | None = None
    ) -> Float[Tensor, "batch spans width"]:
        """One vector for each span (first, end) of 0.32 s tokens (None: the whole clip).

        `log_mel`: the first map of `FeatureExtractor`, not normalised; at most 1,024 frames.
        """
        return self.pool(self.stages(log_mel)[-1], spans)

    def stages(self, log_mel: Float[Tensor, "batch 1 frames mels"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """The last maps of each resolution: 64 mels by 512 frames, 32 by 256, ..., and 4 by 32 tokens, for `pool`."""
        maps = self.padded(log_mel).to(next(self.layers.parameters()).dtype)
        stem, *blocks, last_block, last = self.layers
        maps, stages = stem(maps), []
        for block in blocks:
            maps = block(maps)
            stages.append(maps)
        return [*stages, last(last_block(maps))]

    def padded(self, log_mel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch 1 mels 1024"]:
        """The normed map that the first layer reads."""
        normed = self.norm(log_mel[:, 0].transpose(1, 2))
        return functional.pad(normed, (0, IMAGE_FRAMES - normed.shape[-1])).unsqueeze(1)

    def pool(
        self, last: Float[Tensor, "batch width mels tokens"], spans: Sequence[tuple[int, int]] | None = None
    ) -> Float[Tensor, "batch spans width"]:
        """As `forward`, from the last of its `stages`."""
        in_time = last.float().mean(dim=2)  # (batch, width, tokens)
        spans = spans or ((0, in_time.shape[-1]),)
        return torch.stack([in_time[..., first:end].mean(dim=-1) for first, end in spans], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 beside a direct path; `halve` averages mels and frames in pairs before."""

    def __init__(self, width: int, out: int, *, halve: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.skip = nn.Conv2d(width, out, 1, bias=False) if width != out else nn.Identity()
        self.block = nn.Sequential(
            convolution(width, out, 3, activation=nn.ReLU(inplace=True)), convolution(out, out, 3)
        )

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.pool(maps)
        return functional.relu(self.skip(maps) + self.block(maps), inplace=True)
