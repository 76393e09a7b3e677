"""What the audio teacher hears inside its network, as targets for the maps inside `TimbrePooling`.

A teacher's last vector says little about how it got there, and a network that has only that to learn from takes
thousands of steps to find out. The maps on the way say it at every frame and every band.

Source: hints, Romero et al. 2015 (FitNets), for each resolution instead of for one.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.config import FeatureConfig
from salm.data.audio_teacher import MAX_FREQUENCY_HZ, NUM_MELS, STAGE_WIDTHS


class TeacherHints(nn.Module):
    """The loss between two networks' maps at equal resolutions, over heads that only the training has.

    Args:
        widths: of `TimbrePooling`'s stages. `features`: the mel bands that it reads.
    """

    def __init__(self, widths: Sequence[int], features: FeatureConfig) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(widths, STAGE_WIDTHS, strict=True))
        for stage in range(len(widths)):
            self.register_buffer(f"alignment_{stage}", band_alignment(stage, features), persistent=False)

    def forward(
        self,
        stages: Sequence[Float[Tensor, "batch _ _ _"]],
        teacher: Sequence[Float[Tensor, "batch _ _ _"]],
    ) -> Float[Tensor, ""]:
        """Mean squared error over the stages; 1 for heads that know nothing but the mean of each channel."""
        losses = []
        for number, (head, maps, heard) in enumerate(zip(self.heads, stages, teacher, strict=True)):
            wanted = functional.batch_norm(heard.float(), None, None, training=True)
            wanted = self.get_buffer(f"alignment_{number}") @ wanted
            losses.append(functional.mse_loss(head(maps)[..., : wanted.shape[-1]].float(), wanted))
        return torch.stack(losses).mean()


def band_alignment(stage: int, features: FeatureConfig) -> Float[Tensor, "mels teacher_mels"]:
    """Weights that read the teacher's bands, by linear interpolation, at the centres of ours.

    Both lie evenly on the same mel scale, 1127 ln(1 + f / 700 Hz), the teacher's twice as many from 0 to 15 kHz. In
    stage n our band is the mean of 2^n, as pooling makes it; the teacher's is centred on its 2^(n + 1)-th ones, as
    strided convolutions leave it.
    """
    lowest, highest, teachers_highest = (
        1127.0 * math.log1p(hz / 700.0)
        for hz in (features.min_frequency_hz, features.max_frequency_hz, MAX_FREQUENCY_HZ)
    )
    ours, theirs = 2**stage, 2 ** (stage + 1)
    first = torch.arange(0, features.num_mels, ours) + (ours - 1) / 2
    centres = lowest + (first + 1.0) * (highest - lowest) / (features.num_mels + 1)
    count = NUM_MELS // theirs
    position = (centres * (NUM_MELS + 1) / teachers_highest - 1.0) / theirs
    distance = (position.clamp(0, count - 1)[:, None] - torch.arange(count)).abs()
    return (1.0 - distance).clamp(min=0.0)
