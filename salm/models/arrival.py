"""Where a sound arrives from, by a learned weighting of the intensity vectors: it turns with the field exactly.

The intensity vector of a bin in which the direct sound dominates points at the source; those of reverberation and
noise point anywhere. Two small convolutional networks say how far each bin is to be trusted. They see only what a turn
of the field leaves as it is, so the estimate turns with the field, above and below the horizon as well as around.

Source: weighting intensity vectors by a learned mask for localisation: Perotin et al. 2019; bins dominated by the
direct path: Nadiri & Rafaely 2014. Weighing a second time by the first estimate is iteratively reweighted averaging.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.audio.features import NUM_LOG_MEL_MAPS
from salm.models.convolution import lay_channels_last

Spans = Sequence[tuple[int, int]]
"""First frame and end of each sound in a clip."""
INTENSITY_PEAK = 1024 / 24_000
"""Length of the intensity of a plane wave in the feature maps: the area of a mel filter, in FFT bins per hertz."""
NUM_CUES = 4
NEPER_DB = 10 / math.log(10)
"""Decibels of a factor e of power."""
QUIET_DB = 80.0
"""Bins further below a clip's loudest one are as good as silent."""
MAX_LOGIT = 15.0
LEAST_SQUARE = 1e-20


class ArrivalPooling(nn.Module):
    """Feature maps to directions of arrival.

    Args:
        channels: width of the two networks.
    """

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.first, self.second = (_weights(cues, channels) for cues in (NUM_CUES, NUM_CUES + 1))
        lay_channels_last(self)

    def forward(
        self, features: Float[Tensor, "batch maps frames mels"], spans: Spans | None = None
    ) -> Float[Tensor, "batch spans stages 3"]:
        """Unit vectors (x, y, z): a first estimate and the final one, for each span (None: the whole clip).

        Zero where there is no intensity at all. `features`: the seven maps of `FeatureExtractor`, not normalised.
        """
        spans = spans or ((0, features.shape[2]),)
        intensity = features[:, NUM_LOG_MEL_MAPS:][:, [2, 0, 1]] / INTENSITY_PEAK  # Y, Z, X -> x, y, z
        cues = _invariant_cues(features, intensity)
        first = _weighted_directions(self.first(cues), intensity, spans)
        along = torch.zeros_like(cues[:, :1])
        for number, (start, end) in enumerate(spans):
            towards = torch.einsum("bctf,bc->btf", intensity[:, :, start:end], first[:, number])
            along[:, 0, start:end] = towards
        second = _weighted_directions(self.second(torch.cat([cues, along], dim=1)), intensity, spans)
        return torch.stack([first, second], dim=2)


def _weights(cues: int, channels: int) -> nn.Sequential:
    """Cues of each bin and of its neighbours (70 ms, three mels; then 90 ms, five) to the logarithm of its weight."""
    return nn.Sequential(
        nn.Conv2d(cues, channels, (7, 3), padding=(3, 1)),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 1, 1),
    )


def _invariant_cues(features: Tensor, intensity: Tensor) -> Float[Tensor, "batch cues frames mels"]:
    """What no turn of the field changes: level, dipoles' power against W's, length of the intensity, and frequency."""
    log_w = features[:, :1]
    dipoles = (features[:, 1:NUM_LOG_MEL_MAPS] / NEPER_DB).logsumexp(dim=1, keepdim=True) * NEPER_DB
    level = (log_w - log_w.amax(dim=(2, 3), keepdim=True)).clamp_min(-QUIET_DB) / 20 + 2
    ratio = (dipoles - log_w).clamp(-20, 20) / 5
    mel = torch.linspace(-1, 1, features.shape[3], device=features.device).expand_as(level)
    # `Tensor.norm` takes ten times as long over three maps. Without a least value the slope at zero would be infinite.
    length = intensity.square().sum(dim=1, keepdim=True).clamp_min(LEAST_SQUARE).sqrt()
    return torch.cat([level, ratio, length, mel], dim=1)


def _weighted_directions(logits: Tensor, intensity: Tensor, spans: Spans) -> Float[Tensor, "batch spans 3"]:
    weights = logits.float().clamp(-MAX_LOGIT, MAX_LOGIT).exp()
    sums = [(weights[:, :, start:end] * intensity[:, :, start:end]).sum(dim=(2, 3)) for start, end in spans]
    return functional.normalize(torch.stack(sums, dim=1), dim=-1)
