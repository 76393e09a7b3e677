"""FOA samples -> the seven feature maps that both HTSAT branches read.

The maps are those of PSELDNets (Hu et al. 2025), whose weights initialise the spatial branch: four log-mel
spectrograms (W, Y, Z, X; dB) and three mel-weighted components of the unit intensity vector, in the order Y, Z, X.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from salm.audio.compiled_features import CompiledMaps, can_transform
from salm.config import FeatureConfig
from salm.errors import AudioFormatError

NUM_LOG_MEL_MAPS = 4
NUM_MAPS = 7
POWER_FLOOR = 1e-10
"""Smallest mel power."""
LOG_MEL_FLOOR_DB = 10.0 * math.log10(POWER_FLOOR)
SPECTRA_AT_ONCE = 256
"""Of all channels: what stays in the cache of a core."""
INTENSITY_FLOOR = 1e-8
"""Added to the length of the intensity vector before it divides: silence has no direction."""


def mel_filterbank(config: FeatureConfig) -> Float[Tensor, "bins mels"]:
    """Triangular filters of unit area (Slaney's norm), evenly spaced on the HTK mel scale; float32.

    Source: the parity data of PSELDNets, which only this pair of scale and norm reproduces. HTK mel:
    2595 log10(1 + f / 700 Hz).
    """
    lowest, highest = (
        2595.0 * math.log10(1.0 + hz / 700.0) for hz in (config.min_frequency_hz, config.max_frequency_hz)
    )
    edges = 700.0 * (10.0 ** (np.linspace(lowest, highest, config.num_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, config.sample_rate_hz / 2, config.fft_samples // 2 + 1)
    rising = (bins[:, None] - edges[None, :-2]) / np.diff(edges)[None, :-1]
    falling = (edges[None, 2:] - bins[:, None]) / np.diff(edges)[None, 1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2.0 / (edges[2:] - edges[:-2]))[None, :]).astype(np.float32))


class FeatureExtractor(torch.nn.Module):
    """Seven feature maps of FOA clips, or the single log-mel map of mono clips.

    On a CPU, clips are computed one by one and some frames at a time: those spectra stay in the processor's cache, a
    batch's do not, which takes four times as long.

    Args:
        config: sizes and rates.
        mel_weights: another filterbank than `mel_filterbank(config)`.
        compiled_for: use compiled code on CPUs, needed for what is named here, see `salm.compiled`. Frames of another
            length than a power of two stay torch's.

    Raises:
        DependencyError: the code cannot be compiled.
    """

    def __init__(
        self,
        config: FeatureConfig | None = None,
        mel_weights: Float[Tensor, "bins mels"] | None = None,
        *,
        compiled_for: str | None = None,
    ) -> None:
        super().__init__()
        self.config = config or FeatureConfig()
        self.register_buffer("window", torch.hann_window(self.config.fft_samples), persistent=False)
        weights = mel_filterbank(self.config) if mel_weights is None else mel_weights
        self.register_buffer("mel_weights", weights.contiguous(), persistent=False)
        self.window: Tensor
        self.mel_weights: Tensor
        self._bands = _bands(self.mel_weights)
        self._compiled = None
        if compiled_for is not None and can_transform(self.config.fft_samples):
            self._compiled = CompiledMaps(
                self.window,
                self.config.hop_samples,
                self.mel_weights,
                power_floor=POWER_FLOOR,
                intensity_floor=INTENSITY_FLOOR,
                needed_for=compiled_for,
            )

    @torch.no_grad()
    def forward(self, samples: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch maps frames mels"]:
        """Feature maps of clips of any one length.

        Args:
            samples: 4 channels (W, Y, Z, X; SN3D), or 1 channel.

        Returns:
            7 maps for 4 channels: log-mel of W, Y, Z, X in dB, then the intensity vector's Y, Z, X in [-1, 1] times
            the filter's area; 1 map (log-mel of W) for 1 channel. frames = samples // hop + 1.

        Raises:
            AudioFormatError: neither 1 nor 4 channels, or too few samples for one centred frame.
        """
        channels, length = samples.shape[1:]
        if channels not in (1, 4):
            raise AudioFormatError(f"expected 4 FOA channels (W, Y, Z, X) or 1 channel, got {channels}")
        if length <= self.config.fft_samples // 2:
            raise AudioFormatError(
                f"expected more than {self.config.fft_samples // 2} samples at {self.config.sample_rate_hz} Hz, got "
                f"{length}; repeat or zero-pad shorter sounds (salm.audio.io.fit_window)"
            )
        if self._compiled is not None and samples.device.type == "cpu":
            return self._compiled(samples)
        if samples.device.type == "cpu":
            return torch.stack([self._maps(clip, SPECTRA_AT_ONCE // channels) for clip in samples])
        return self._maps(samples, length)

    def _maps(self, samples: Tensor, frames_at_once: int) -> Tensor:
        """(..., channels, samples) to (..., maps, frames, mels)."""
        # By hand, since others take longer (torch 2.11, CPU): torch.stft five times, pad by reflection ten times,
        # vector_norm over maps twenty times.
        config = self.config
        half = config.fft_samples // 2
        before, after = samples[..., 1 : half + 1].flip(-1), samples[..., -half - 1 : -1].flip(-1)
        padded = torch.cat([before, samples, after], dim=-1)
        frames = padded.unfold(-1, config.fft_samples, config.hop_samples)
        channels, count = frames.shape[-3:-1]
        num_maps = 1 if channels == 1 else NUM_MAPS
        maps = samples.new_empty(*samples.shape[:-2], num_maps, count, config.num_mels)
        self._write(frames, maps, frames_at_once)
        maps[..., :channels, :, :].clamp_min_(POWER_FLOOR).log10_().mul_(10.0)
        return maps

    def _write(self, frames: Tensor, maps: Tensor, at_once: int) -> None:
        """(..., channels, frames, samples) to linear (..., maps, frames, mels)."""
        for start in range(0, frames.shape[-2], at_once):
            spectra = torch.fft.rfft(frames[..., start : start + at_once, :] * self.window)
            linear = _power_and_intensity(spectra.real, spectra.imag)
            for bins, mels in self._bands:
                maps[..., start : start + at_once, mels] = linear[..., bins] @ self.mel_weights[bins, mels]


def _power_and_intensity(
    real: Float[Tensor, "*batch channels frames bins"], imag: Float[Tensor, "*batch channels frames bins"]
) -> Float[Tensor, "*batch maps frames bins"]:
    """Power of each channel, then (of four) the three components of the unit intensity vector."""
    channels = real.shape[-3]
    num_maps = 1 if channels == 1 else NUM_MAPS
    maps = real.new_empty(*real.shape[:-3], num_maps, *real.shape[-2:])
    torch.mul(real, real, out=maps[..., :channels, :, :]).addcmul_(imag, imag)
    if channels > 1:
        intensity = maps[..., channels:, :, :]
        torch.mul(real[..., :1, :, :], real[..., 1:, :, :], out=intensity)
        intensity.addcmul_(imag[..., :1, :, :], imag[..., 1:, :, :])
        length = intensity.square().sum(dim=-3, keepdim=True).sqrt_()
        intensity.div_(length.add_(INTENSITY_FLOOR))
    return maps


def _bands(weights: Float[Tensor, "bins mels"], count: int = 4) -> list[tuple[slice, slice]]:
    """Bins and mels of parts of a filterbank without whose zeros a quarter of the products is left."""
    bands = []
    for mels in torch.arange(weights.shape[1]).chunk(count):
        mel_slice = slice(int(mels[0]), int(mels[-1]) + 1)
        used = weights[:, mel_slice].any(dim=1).nonzero()
        bands.append((slice(int(used.min()), int(used.max()) + 1), mel_slice))
    return bands
