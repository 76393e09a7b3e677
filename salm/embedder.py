"""Files, arrays or sentences -> vectors: what `salm.encode_audio` and its neighbours call."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from salm.audio.features import FeatureExtractor
from salm.audio.io import Window, fit_window
from salm.audio.recordings import Recording, is_collection, recordings
from salm.errors import ConfigError, SalmError
from salm.geometry import SECTORS, Convention, azimuth_elevation, direction_prompt, parse_sector
from salm.models.salm import AudioParts
from salm.progress import progress_on_stderr
from salm.weights.checkpoint import Checkpoint, load_checkpoint
from salm.weights.registry import DEFAULT_MODEL, find_checkpoint

Embedding = Literal["joint", "semantic", "spatial"]
EMBEDDINGS: tuple[Embedding, ...] = ("joint", "semantic", "spatial")
Audio = Any
"""A path, an array or tensor (4, samples) or (batch, 4, samples), or a list of these."""


@dataclass(frozen=True)
class EncodedWindows:
    """The windows of one recording.

    Attributes:
        embeddings: (windows, 512). start_s, end_s: (windows,), in seconds.
    """

    embeddings: NDArray[np.float32]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True)
class EncodedWindow:
    """One window of a recording: L2-normalised embeddings (512,) and the DOA head's direction in degrees."""

    start_s: float
    end_s: float
    joint: NDArray[np.float32]
    semantic: NDArray[np.float32]
    spatial: NDArray[np.float32]
    azimuth_deg: float
    elevation_deg: float


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


class Embedder:
    """A loaded model: encodes recordings and sentences, tells and edits directions.

    Encoding has no randomness, and an item's vector does not depend on what it is encoded with.

    Args:
        checkpoint: model, configuration and tokenizer.
        device: such as "cpu" or "cuda"; by default a GPU if there is one.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoint = checkpoint
        self._model = checkpoint.model.to(self.device).eval()
        self._features = FeatureExtractor(checkpoint.config.features).to(self.device)

    @property
    def model_id(self) -> str:
        """Name and fingerprint, such as "salm-small:0123456789ab"."""
        return self.checkpoint.model_id

    @property
    def embedding_width(self) -> int:
        """Dimensions of every embedding."""
        return self.checkpoint.config.embedding_width

    def encode_text(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize_embeddings: bool = True,
        convert_to_tensor: bool = False,
    ) -> NDArray[np.float32] | Tensor:
        """Embeddings of sentences, (sentences, 512) float32, in their order.

        Raises:
            SalmError: a sentence is empty or no text.
        """
        sentences = [texts] if isinstance(texts, str) else list(texts)
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str) or not sentence.strip():
                raise SalmError(f"text {number}: expected a sentence, got {sentence!r}")
        encoded = torch.zeros(len(sentences), self.embedding_width)
        # Sentences of like length share a batch, so that little of it is padding.
        order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                ids, mask = self.checkpoint.tokenizer([sentences[row] for row in rows])
                encoded[rows] = self._model.encode_text(ids.to(self.device), mask.to(self.device)).float().cpu()
        return _finish(encoded, normalize_embeddings, convert_to_tensor)

    def encode_audio(
        self,
        audio: Audio,
        *,
        sample_rate: int | None = None,
        embedding: Embedding = "joint",
        windows: bool = False,
        batch_size: int = 8,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = True,
        convert_to_tensor: bool = False,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> NDArray[np.float32] | Tensor | list[EncodedWindows]:
        """Embeddings of recordings, (recordings, 512) float32; a single one gives (1, 512).

        Args:
            audio: a path, an array or tensor (4, samples) or (batch, 4, samples) with values in [-1, 1], or a list.
            sample_rate: of arrays, in Hz; files give their own.
            embedding: `"joint"` (what and where), `"semantic"` (what; also of mono recordings) or `"spatial"` (where).
            windows: give every window of each recording, with its times, instead of the mean over its windows.
            convention: `"fuma"` for W, X, Y, Z with W at -3 dB.
            window_s, hop_s: how recordings longer than a window are cut.

        Raises:
            AudioFormatError: a recording cannot be used; the message names it and the next step.
            ConfigError: unknown embedding.
        """
        if embedding not in EMBEDDINGS:
            raise ConfigError(f"unknown embedding {embedding!r}; expected one of {', '.join(EMBEDDINGS)}")
        means: list[Tensor] = []
        pieces: list[EncodedWindows] = []
        cut: dict[str, Any] = {"convention": convention, "window_s": window_s, "hop_s": hop_s}
        cut["allow_mono"] = embedding == "semantic"
        sources = recordings(audio, sample_rate=sample_rate, **cut)
        with progress_on_stderr("encoding", quiet=not show_progress_bar) as progress:
            for number, recording in enumerate(sources):
                vectors, starts, ends = [], [], []
                for batch, parts in self._encode(recording, batch_size, embedding):
                    vectors.append(parts)
                    starts += [window.start_s for window in batch]
                    ends += [window.end_s for window in batch]
                stacked = torch.cat(vectors)
                means.append(stacked.mean(dim=0))
                if windows:
                    final = _finish(stacked, normalize_embeddings, convert_to_tensor=False)
                    pieces.append(EncodedWindows(final, np.array(starts), np.array(ends)))
                if progress is not None:
                    progress(number + 1, len(sources))
        if windows:
            return pieces
        encoded = torch.stack(means) if means else torch.zeros(0, self.embedding_width)
        return _finish(encoded, normalize_embeddings, convert_to_tensor)

    def encode_audio_parts(
        self,
        audio: Audio,
        *,
        sample_rate: int | None = None,
        batch_size: int = 8,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> AudioParts:
        """Unnormalised semantic, spatial and joint embeddings (recordings, 512) and the unit DOA (recordings, 3).

        Tensors on the CPU; of longer recordings the means over their windows (the DOA again of unit length).

        Raises:
            AudioFormatError: a recording cannot be used, or is mono.
        """
        cut: dict[str, Any] = {"convention": convention, "window_s": window_s, "hop_s": hop_s}
        means: dict[str, list[Tensor]] = {name: [] for name in ("semantic", "spatial", "joint", "doa")}
        for recording in recordings(audio, sample_rate=sample_rate, **cut):
            encoded = [parts for _, parts in self._encode_parts(recording, batch_size)]
            for name, values in means.items():
                values.append(torch.cat([getattr(parts, name) for parts in encoded]).mean(dim=0))
        widths = {"doa": 3}
        stacked = {
            name: torch.stack(values) if values else torch.zeros(0, widths.get(name, self.embedding_width))
            for name, values in means.items()
        }
        return AudioParts(**(stacked | {"doa": functional.normalize(stacked["doa"], dim=-1)}))

    def encode_windows(
        self,
        audio: Audio,
        *,
        sample_rate: int | None = None,
        batch_size: int = 8,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> Iterator[EncodedWindow]:
        """The windows of one recording of any length, encoded one batch after the other in bounded memory.

        Raises:
            AudioFormatError: the recording cannot be used, or is mono.
        """
        cut: dict[str, Any] = {"convention": convention, "window_s": window_s, "hop_s": hop_s}
        for recording in recordings(audio, sample_rate=sample_rate, **cut):
            for batch, parts in self._encode_parts(recording, batch_size):
                azimuth, elevation = azimuth_elevation(parts.doa.numpy())
                unit = {name: functional.normalize(getattr(parts, name), dim=-1).numpy() for name in EMBEDDINGS}
                for row, window in enumerate(batch):
                    yield EncodedWindow(
                        window.start_s,
                        window.end_s,
                        **{name: vectors[row] for name, vectors in unit.items()},
                        azimuth_deg=math.degrees(azimuth[row]),
                        elevation_deg=math.degrees(elevation[row]),
                    )

    def classify_direction(
        self, audio: Audio, *, embedding: Embedding = "joint", **reading: Any
    ) -> DirectionPrediction | list[DirectionPrediction]:
        """Zero-shot direction among the eight prompts "The sound is coming from the <compass word>."

        One recording gives one prediction, a list a list. `reading`: as for `encode_audio`.
        """
        vectors: Any = self.encode_audio(audio, embedding=embedding, convert_to_tensor=True, **reading)
        prompts: Any = self.encode_text([direction_prompt(sector) for sector in SECTORS], convert_to_tensor=True)
        scale = self._model.log_temperature.exp().detach().cpu()
        predictions = []
        for row in (scale * vectors @ prompts.T).softmax(dim=-1):
            best = SECTORS[int(row.argmax())]
            probabilities = {sector.compass: float(row[sector.index]) for sector in SECTORS}
            predictions.append(DirectionPrediction(best.compass, best.azimuth_deg, probabilities))
        return predictions if is_collection(audio) else predictions[0]

    def localize(self, audio: Audio, **reading: Any) -> Localization | list[Localization]:
        """Direction of arrival by the DOA head; one recording gives one, a list a list."""
        azimuth, elevation = azimuth_elevation(self.encode_audio_parts(audio, **reading).doa.numpy())
        found = [Localization(math.degrees(a), math.degrees(e)) for a, e in zip(azimuth, elevation, strict=True)]
        return found if is_collection(audio) else found[0]

    def edit_direction(
        self,
        parts: AudioParts,
        direction: str,
        *,
        normalize_embeddings: bool = True,
        convert_to_tensor: bool = False,
    ) -> NDArray[np.float32] | Tensor:
        """Joint embeddings (recordings, 512) of the same sounds from another direction, equation 3.

        Args:
            parts: from `encode_audio_parts`.
            direction: a word such as "southwest" or "behind".

        Raises:
            DirectionError: the text names no horizontal direction.
        """
        prompt: Any = self.encode_text(
            direction_prompt(parse_sector(direction)), normalize_embeddings=False, convert_to_tensor=True
        )
        with torch.inference_mode():
            edited = self._model.edit_direction(
                parts.semantic.to(self.device), parts.spatial.to(self.device), prompt.to(self.device)
            )
        return _finish(edited.cpu(), normalize_embeddings, convert_to_tensor)

    def _encode(self, recording: Recording, batch_size: int, name: Embedding) -> Iterator[tuple[list[Window], Tensor]]:
        for batch in recording.batches(batch_size):
            features = self._window_features(batch)
            with torch.inference_mode():
                if features.shape[1] == 1:
                    yield batch, self._model.encode_semantic(features).float().cpu()
                else:
                    yield batch, getattr(self._model.encode_audio(features), name).float().cpu()

    def _encode_parts(self, recording: Recording, batch_size: int) -> Iterator[tuple[list[Window], AudioParts]]:
        for batch in recording.batches(batch_size):
            with torch.inference_mode():
                parts = self._model.encode_audio(self._window_features(batch))
            yield batch, AudioParts(*(getattr(parts, name).cpu() for name in ("semantic", "spatial", "joint", "doa")))

    def _window_features(self, batch: Sequence[Window]) -> Tensor:
        length = self.checkpoint.config.features.clip_samples
        if max(window.samples.shape[1] for window in batch) > length:
            raise ConfigError(f"windows longer than {self.checkpoint.config.features.clip_s:g} s do not fit the model")
        samples = np.stack([fit_window(window.samples, length) for window in batch])
        return self._features(torch.from_numpy(samples).to(self.device))


def load(name_or_path: str | Path = DEFAULT_MODEL, *, device: str | torch.device | None = None) -> Embedder:
    """Load a bundled model by name, a checkpoint folder, or a Hugging Face repository ("owner/name").

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
    """
    return Embedder(load_checkpoint(find_checkpoint(name_or_path)), device)


def _finish(vectors: Tensor, normalize: bool, convert_to_tensor: bool) -> Any:
    vectors = functional.normalize(vectors, dim=-1) if normalize else vectors
    return vectors.clone() if convert_to_tensor else vectors.numpy()
