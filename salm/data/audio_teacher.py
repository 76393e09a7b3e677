"""What is heard, by a small tagger that was trained on AudioSet: mono sounds -> an embedding and 527 tag scores.

The tagger is EfficientAT's mn04_as, a MobileNetV3-Large of 0.4 times the width, with a log-mel front end at 32 kHz.

Source: Schmid, Koutini, Widmer, "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation",
ICASSP 2023; layout of the blocks: Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import soxr
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from salm.audio.io import SAMPLE_RATE_HZ
from salm.errors import AudioFormatError, CheckpointError
from salm.models.convolution import convolution, fuse_batch_norms, lay_channels_last
from salm.weights.foreign import match_keys, read_state

TEACHER_RATE_HZ = 32_000
EMBEDDING_WIDTH = 384
NUM_TAGS = 527
"""In the order of AudioSet's `class_labels_indices.csv`."""
PRE_EMPHASIS = 0.97
FFT_SAMPLES = 1_024
WINDOW_SAMPLES = 800
HOP_SAMPLES = 320
NUM_MELS = 128
MAX_FREQUENCY_HZ = 15_000.0
MIN_SAMPLES = SAMPLE_RATE_HZ // 10
"""A tenth of a second: less fills hardly more than one window."""


class BlockSize(NamedTuple):
    """One inverted residual block: hard swish instead of ReLU where `swish`, squeeze-and-excite where `gate`."""

    kernel: int
    expanded: int
    out: int
    gate: bool
    swish: bool
    stride: int


STEM_WIDTH = 8
STAGE_ENDS = (0, 3, 6, 12, 16)
"""Layers whose maps are the last of their resolution: 64 bands by 500 frames (of 10 s), 32 by 250, ..., 4 by 32."""
STAGE_WIDTHS = (8, 16, 16, 48, EMBEDDING_WIDTH)
_convolution = partial(convolution, eps=1e-3)
BLOCKS = (
    BlockSize(3, 8, 8, False, False, 1),
    BlockSize(3, 24, 16, False, False, 2),
    BlockSize(3, 32, 16, False, False, 1),
    BlockSize(5, 32, 16, True, False, 2),
    BlockSize(5, 48, 16, True, False, 1),
    BlockSize(5, 48, 16, True, False, 1),
    BlockSize(3, 96, 32, False, True, 2),
    BlockSize(3, 80, 32, False, True, 1),
    BlockSize(3, 72, 32, False, True, 1),
    BlockSize(3, 72, 32, False, True, 1),
    BlockSize(3, 192, 48, True, True, 1),
    BlockSize(3, 272, 48, True, True, 1),
    BlockSize(5, 272, 64, True, True, 2),
    BlockSize(5, 384, 64, True, True, 1),
    BlockSize(5, 384, 64, True, True, 1),
)


class AudioTeacher(nn.Module):
    """The tagger with its front end; random weights until `load`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (STEM_WIDTH, *(size.out for size in BLOCKS))
        blocks = [_InvertedResidual(width, size) for width, size in zip(widths, BLOCKS, strict=False)]
        stem = _convolution(1, STEM_WIDTH, 3, stride=2, activation=nn.Hardswish())
        last = _convolution(widths[-1], EMBEDDING_WIDTH, 1, activation=nn.Hardswish())
        # Names and numbers of the parts are those of the published weights.
        self.features = nn.Sequential(stem, *blocks, last)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(EMBEDDING_WIDTH, 512),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(512, NUM_TAGS),
        )
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES, periodic=False), persistent=False)
        self.register_buffer("mel_weights", kaldi_mel_filterbank(), persistent=False)
        self.window: Tensor
        self.mel_weights: Tensor

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tagger with the weights of `mn04_as_mAP_432.pt`, frozen, in evaluation mode.

        Batch norms become part of their convolutions, so its own state dictionary is no longer the file's.

        Raises:
            CheckpointError: no such file, no state dictionary, or its keys or shapes are not those of mn04_as.
        """
        teacher = cls()
        try:
            match_keys(str(path), read_state(path), [(".+", r"\g<0>")], {}).load_into(teacher)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; expected EfficientAT's mn04_as_mAP_432.pt") from error
        teacher.eval().requires_grad_(False)
        fuse_batch_norms(teacher.features)
        lay_channels_last(teacher.features)
        return teacher

    @torch.no_grad()
    def forward(
        self, samples: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch 384"], Float[Tensor, "batch 527"]]:
        """Embeddings (not normalised) and tag scores before the sigmoid, without gradients.

        Args:
            samples: mono clips of any one length from 0.1 s at `SAMPLE_RATE_HZ`, in [-1, 1]; 1 s and more is sensible.

        Raises:
            AudioFormatError: the clips are too short.
        """
        if samples.shape[1] < MIN_SAMPLES:
            raise AudioFormatError(
                f"expected at least {MIN_SAMPLES} samples at {SAMPLE_RATE_HZ} Hz for the tagger, got {samples.shape[1]}"
            )
        # Clip by clip, for the processor's cache; the network is faster over a batch.
        return self.hear(torch.stack([self.log_mel(clip) for clip in samples.cpu().numpy()]))

    @torch.no_grad()
    def hear(
        self, log_mels: Float[Tensor, "batch 128 frames"]
    ) -> tuple[Float[Tensor, "batch 384"], Float[Tensor, "batch 527"]]:
        """As `forward`, from maps of `log_mel` or `log_mels`."""
        features = self.features(log_mels.unsqueeze(1))
        return features.mean(dim=(2, 3)), self.classifier(features)

    @torch.no_grad()
    def stages(self, log_mels: Float[Tensor, "batch 128 frames"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """The maps at `STAGE_ENDS` inside the network, without gradients.

        Args:
            log_mels: of `log_mel` or `log_mels`.
        """
        maps, ends = log_mels.unsqueeze(1), []
        for number, layer in enumerate(self.features):
            maps = layer(maps)
            if number in STAGE_ENDS:
                ends.append(maps)
        return ends

    def log_mel(self, clip: NDArray[np.float32]) -> Float[Tensor, "128 frames"]:
        """The network's input for a clip (samples,) at `SAMPLE_RATE_HZ`: a frame for each 10 ms."""
        resampled = torch.from_numpy(soxr.resample(clip, SAMPLE_RATE_HZ, TEACHER_RATE_HZ)).to(self.window.device)
        return self._log_mels(resampled[None])[0]

    def log_mels(self, clips: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 128 frames"]:
        """`log_mel` of many clips, made on their device.

        There they are resampled by an FFT, to which a clip's end is followed by its start.
        """
        samples = clips.shape[-1] * TEACHER_RATE_HZ // SAMPLE_RATE_HZ
        return self._log_mels(torch.fft.irfft(torch.fft.rfft(clips), samples) * (samples / clips.shape[-1]))

    def _log_mels(self, resampled: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 128 frames"]:
        """From clips at `TEACHER_RATE_HZ`."""
        sharpened = resampled[:, 1:] - PRE_EMPHASIS * resampled[:, :-1]
        # Only the window's own samples are framed: where they stand among the FFT's zeros leaves the power as it is.
        padded = functional.pad(sharpened, (WINDOW_SAMPLES // 2, WINDOW_SAMPLES // 2), mode="reflect")
        frames = padded.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES)
        spectra = torch.fft.rfft(frames * self.window, n=FFT_SAMPLES)
        power = spectra.real.square() + spectra.imag.square()
        log_mels = (self.mel_weights @ power.transpose(1, 2) + 1e-5).log()
        return (log_mels + 4.5) / 5.0


def kaldi_mel_filterbank() -> Float[Tensor, "mels bins"]:
    """Triangles of height 1, evenly spaced and straight on the mel scale from 0 Hz to `MAX_FREQUENCY_HZ`.

    Source: Kaldi, `MelBanks`: mel = 1127 ln(1 + f / 700 Hz).
    """
    bins_hz = np.arange(FFT_SAMPLES // 2 + 1) * TEACHER_RATE_HZ / FFT_SAMPLES
    mels = 1127.0 * np.log1p(bins_hz / 700.0)
    edges = np.linspace(0.0, 1127.0 * np.log1p(MAX_FREQUENCY_HZ / 700.0), NUM_MELS + 2)
    position = (mels[None, :] - edges[:-2, None]) / (edges[1] - edges[0])
    return torch.from_numpy(np.maximum(0.0, np.minimum(position, 2.0 - position)).astype(np.float32))


class _InvertedResidual(nn.Module):
    """Expand, filter each channel alone, gate, project; the input is added where the shapes agree."""

    def __init__(self, width: int, size: BlockSize) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if size.expanded != width:
            layers.append(_convolution(width, size.expanded, 1, activation=_activation(size)))
        depthwise = _convolution(
            size.expanded,
            size.expanded,
            size.kernel,
            stride=size.stride,
            groups=size.expanded,
            activation=_activation(size),
        )
        layers.append(depthwise)
        if size.gate:
            layers.append(_Gates(size.expanded))
        layers.append(_convolution(size.expanded, size.out, 1))
        self.block = nn.Sequential(*layers)
        self.residual = size.stride == 1 and width == size.out

    def forward(self, maps: Tensor) -> Tensor:
        out = self.block(maps)
        return maps + out if self.residual else out


class _Gates(nn.Module):
    """The published weights hold a list of gates, of which mn04_as has one, over the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_SqueezeExcite(width)])

    def forward(self, maps: Tensor) -> Tensor:
        return self.conc_se_layers[0](maps)


class _SqueezeExcite(nn.Module):
    """Channels weighed by their own means; a quarter of the width inside, rounded to a multiple of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = (width // 4 + 4) // 8 * 8
        self.fc1 = nn.Linear(width, squeezed)
        self.fc2 = nn.Linear(squeezed, width)

    def forward(self, maps: Tensor) -> Tensor:
        gate = self.fc2(functional.relu(self.fc1(maps.mean(dim=(2, 3))))).sigmoid()
        return maps * gate[:, :, None, None]


def _activation(size: BlockSize) -> nn.Module:
    return nn.Hardswish(inplace=True) if size.swish else nn.ReLU(inplace=True)
