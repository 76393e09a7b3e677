"""What an `Embedder` answers with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Vectors = NDArray[np.float32] | Tensor
"""float32 numpy arrays, or tensors on the CPU where `convert_to_tensor` is set."""


@dataclass(frozen=True, eq=False)
class EncodedWindows:
    """The windows of one recording.

    Attributes:
        embeddings: (windows, 512).
        start_s, end_s: (windows,), in seconds.
    """

    embeddings: Vectors
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EncodedWindow:
    """One window of a recording: L2-normalised embeddings (512,) and the DOA head's direction in degrees."""

    start_s: float
    end_s: float
    joint: NDArray[np.float32]
    semantic: NDArray[np.float32]
    spatial: NDArray[np.float32]
    azimuth_deg: float
    elevation_deg: float


@dataclass(frozen=True, eq=False)
class EncodedParts:
    """What the model knows of recordings. Embeddings (recordings, 512) are not normalised; `doa` has unit length.

    Attributes:
        semantic: what sounds, E_ASe.
        spatial: where it sounds from, E_ASp.
        joint: semantic + s * spatial, E_JA (equation 2).
        doa: direction of arrival (x, y, z), (recordings, 3).
    """

    semantic: Vectors
    spatial: Vectors
    joint: Vectors
    doa: Vectors


@dataclass(frozen=True)
class DirectionPrediction:
    """Zero-shot answer: the most probable of the eight compass words, its azimuth, and the probability of each."""

    label: str
    azimuth_deg: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Localization:
    """The DOA head's answer in degrees: azimuth counter-clockwise from the front, elevation up from the horizon."""

    azimuth_deg: float
    elevation_deg: float
