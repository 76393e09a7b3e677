"""What varies sounds before a scene is made of them, and the feature maps of a scene without making it anew."""

import itertools

import numpy as np
import scipy.fft
import soxr
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from salm.audio.features import LOG_MEL_FLOOR_DB, NUM_LOG_MEL_MAPS

LOWEST_OCTAVE_HZ = 62.5
CHANNEL_AXES = (1, 2, 0)
"""Spatial axis (x, y, z as 0, 1, 2) of the channels Y, Z, X, in this order."""


def axis_turns() -> list[NDArray[np.float64]]:
    """The 48 signed permutations of the axes, as (3, 3) matrices: all turns and mirrors of a cube."""
    orders, signs = itertools.permutations(range(3)), list(itertools.product((1.0, -1.0), repeat=3))
    return [np.diag(sign)[list(order)] for order in orders for sign in signs]


def quarter_turns() -> list[NDArray[np.float64]]:
    """The 16 of them that keep the vertical axis vertical.

    Quarter turns about the vertical axis, with and without mirroring front-back and up-down.
    """
    return [turn for turn in axis_turns() if turn[2, 2]]


def turn_maps(
    features: Float[Tensor, "maps frames mels"], turn: NDArray[np.float64]
) -> Float[Tensor, "maps frames mels"]:
    """The maps of a field turned by a signed permutation of the axes (3, 3); exact, directions turn with it.

    The dipoles' log-mel maps change places, the intensity's change places and signs; a single map, of W, stays.
    """
    if len(features) == 1:
        return features
    rows = [int(np.flatnonzero(turn[axis])[0]) for axis in CHANNEL_AXES]
    order = [CHANNEL_AXES.index(row) for row in rows]
    signs = torch.tensor([turn[axis, row] for axis, row in zip(CHANNEL_AXES, rows, strict=True)], dtype=features.dtype)
    log_mels = features[1:NUM_LOG_MEL_MAPS][order]
    intensity = features[NUM_LOG_MEL_MAPS:][order] * signs[:, None, None]
    return torch.cat([features[:1], log_mels, intensity])


def shift_level(features: Float[Tensor, "maps frames mels"], gain_db: float) -> Float[Tensor, "maps frames mels"]:
    """The maps of a recording that is `gain_db` louder: the log-mel maps move, no lower than their floor."""
    log_mels = (features[:NUM_LOG_MEL_MAPS] + gain_db).clamp_min(LOG_MEL_FLOOR_DB)
    return torch.cat([log_mels, features[NUM_LOG_MEL_MAPS:]])


def mask_mels(
    features: Float[Tensor, "maps frames mels"], widest: int, generator: np.random.Generator
) -> Float[Tensor, "maps frames mels"]:
    """A random band of mels set to each map's mean over that band (SpecAugment, Park et al. 2019, frequency only)."""
    width = int(generator.integers(widest + 1)) if widest else 0
    if not width:
        return features
    first = int(generator.integers(features.shape[-1] - width + 1))
    masked = features.clone()
    masked[..., first : first + width] = features[..., first : first + width].mean(dim=(1, 2), keepdim=True)
    return masked


def change_speed(dry: NDArray[np.float32], factor: float, sample_rate: int) -> NDArray[np.float32]:
    """A sound played `factor` times as fast, and as much higher."""
    if factor == 1.0:
        return dry
    return soxr.resample(dry, sample_rate * factor, sample_rate, quality="LQ")


def recolour(
    dry: NDArray[np.float32], deviation_db: float, sample_rate: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """A sound (samples,) through a random smooth filter: octave gains of this standard deviation, no phase."""
    if not deviation_db:
        return dry
    size = scipy.fft.next_fast_len(len(dry), real=True)
    gains = octave_gains(size, sample_rate, deviation_db, generator)[0]
    return scipy.fft.irfft(scipy.fft.rfft(dry, size) * gains, size)[: len(dry)]


def octave_gains(
    size: int, sample_rate: int, deviation_db: float, generator: np.random.Generator, count: int = 1
) -> NDArray[np.float32]:
    """Gains (count, size // 2 + 1) of random smooth filters over an FFT's bins.

    Each octave's gain in dB is drawn from a normal distribution; between octaves the decibels are interpolated.
    """
    octaves = np.log2(np.maximum(scipy.fft.rfftfreq(size, 1 / sample_rate), LOWEST_OCTAVE_HZ) / LOWEST_OCTAVE_HZ)
    knots = np.arange(int(np.ceil(octaves[-1])) + 1)
    drawn_db = generator.normal(0, deviation_db, (count, len(knots)))
    gains_db = np.stack([np.interp(octaves, knots, values) for values in drawn_db])
    return (10 ** (gains_db / 20)).astype(np.float32)
