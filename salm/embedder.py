"""Files, arrays or sentences -> vectors: what `salm.encode_audio` and its neighbours call."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from salm.audio.io import SAMPLE_RATE_HZ
from salm.audio.recordings import Recording, is_collection, recordings
from salm.errors import AudioFormatError, CheckpointError, ConfigError
from salm.geometry import (
    SECTORS,
    Convention,
    azimuth_elevation,
    direction_prompt,
    parse_sector,
    spell_out_directions,
)
from salm.models.precision import PrecisionName, find_precision
from salm.models.salm import AudioParts
from salm.progress import progress_on_stderr
from salm.results import DirectionPrediction, EncodedParts, EncodedWindow, EncodedWindows, Localization, Vectors
from salm.text.captions import strip_direction
from salm.text.tokenizer import as_sentences
from salm.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salm.weights.registry import DEFAULT_MODEL, find_checkpoint, upload_checkpoint
from salm.window_encoder import EMBEDDINGS, Embedding, WindowEncoder, check_batch_size, encoded_window, find_device

Audio = Any
"""A path, an array or tensor (4, samples) or (batch, 4, samples) with values in [-1, 1], or a list of these."""


class Embedder:
    """A loaded model: encodes recordings and sentences, tells and edits directions.

    Encoding has no randomness, and an item's vector does not depend on what it is encoded with. All methods that take
    audio read it with the same keywords:

    - `sample_rate`: of arrays, in Hz; files give their own.
    - `batch_size`: windows per forward pass.
    - `convention`: `"fuma"` for W, X, Y, Z with W at -3 dB.
    - `window_s`, `hop_s`: how recordings longer than a window are cut; shorter ones are repeated, then zero-padded.

    They raise `AudioFormatError` for a recording that cannot be used, with its name and the next step, and
    `ConfigError` for a value that nothing can be encoded with.

    Args:
        checkpoint: model, configuration and tokenizer.
        device: such as "cpu" or "cuda"; by default a GPU if there is one.
        precision: of the audio tower's transformer. "bfloat16" is faster where the processor has units for it
            (AVX-512 BF16, AMX, GPUs) and slower elsewhere; "int8" is the fastest on x86-64 processors with AVX2 but
            without AMX, "int16" is between it and float32 in speed and error, and both need a C compiler once
            (`salm.models.integer`); "auto" is the fastest that can be had. Their vectors have a cosine above 0.999 to
            the default's, so that all kinds may share an index.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str | torch.device | None = None, precision: PrecisionName = "float32"
    ) -> None:
        rate = checkpoint.config.features.sample_rate_hz
        if rate != SAMPLE_RATE_HZ:
            raise CheckpointError(f"{checkpoint.model_id}: made for {rate} Hz, SALM encodes at {SAMPLE_RATE_HZ} Hz")
        self.checkpoint = checkpoint
        self.device = find_device(device)
        self._model = checkpoint.model.to(self.device).eval()
        self.precision = find_precision(precision, self.device)
        self._windows = WindowEncoder(self._model, checkpoint.config.features, self.device, self.precision)

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
        show_progress_bar: bool = False,
        normalize_embeddings: bool = True,
        convert_to_tensor: bool = False,
    ) -> Vectors:
        """Embeddings of sentences, (sentences, 512) float32, in their order; a single one gives (1, 512).

        Directions are spelled out before: "NW" is read as "northwest", "at 3 o'clock" as "from the east".

        Raises:
            SalmError: a sentence is empty or no text.
        """
        sentences = as_sentences(texts)
        check_batch_size(batch_size)
        encoded = torch.zeros(len(sentences), self.embedding_width)
        # Sentences of like length share a batch, so that little of it is padding.
        order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
        with progress_on_stderr("encoding", quiet=not show_progress_bar) as progress, torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                ids, mask = self.checkpoint.tokenizer([spell_out_directions(sentences[row]) for row in rows])
                encoded[rows] = self._model.encode_text(ids.to(self.device), mask.to(self.device)).float().cpu()
                if progress is not None:
                    progress(start + len(rows), len(order))
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
    ) -> Any:
        """Embeddings of recordings, (recordings, 512) float32; a single one gives (1, 512).

        Of a longer recording the mean of its windows' unnormalised embeddings, so that equations 2 and 3 hold for it.

        Args:
            audio: a path, an array or tensor (4, samples) or (batch, 4, samples), or a list of these.
            embedding: `"joint"` (what and where), `"semantic"` (what; also of mono recordings) or `"spatial"` (where).
            windows: give a list with one `EncodedWindows` for each recording instead.
        """
        _check_embedding(embedding, EMBEDDINGS)
        sources = self._sources(audio, sample_rate, convention, window_s, hop_s, allow_mono=embedding == "semantic")
        means, pieces = [], []
        for encoded in self._windows.by_recording(sources, batch_size, show_progress_bar=show_progress_bar):
            vectors = torch.stack([window.parts[embedding] for window in encoded])
            means.append(vectors.mean(dim=0))
            if windows:
                starts, ends = (np.array([getattr(w, name) for w in encoded]) for name in ("start_s", "end_s"))
                pieces.append(EncodedWindows(_finish(vectors, normalize_embeddings, convert_to_tensor), starts, ends))
        if windows:
            return pieces
        vectors = torch.stack(means) if means else torch.zeros(0, self.embedding_width)
        return _finish(vectors, normalize_embeddings, convert_to_tensor)

    def encode_audio_parts(
        self,
        audio: Audio,
        *,
        sample_rate: int | None = None,
        batch_size: int = 8,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> EncodedParts:
        """Unnormalised semantic, spatial and joint embeddings (recordings, 512) and the unit DOA (recordings, 3).

        Of longer recordings the means over their windows; the DOA is then brought to unit length again.
        """
        sources = self._sources(audio, sample_rate, convention, window_s, hop_s)
        widths = dict.fromkeys(EMBEDDINGS, self.embedding_width) | {"doa": 3}
        means = {name: torch.zeros(len(sources), width) for name, width in widths.items()}
        encoded = self._windows.by_recording(sources, batch_size, show_progress_bar=show_progress_bar)
        for row, windows in enumerate(encoded):
            for name, mean in means.items():
                mean[row] = torch.stack([window.parts[name] for window in windows]).mean(dim=0)
        return EncodedParts(**{name: _finish(mean, name == "doa", convert_to_tensor) for name, mean in means.items()})

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
        """The windows of one recording of any length, encoded one batch after the other in bounded memory."""
        sources = self._sources(audio, sample_rate, convention, window_s, hop_s)
        if len(sources) != 1:
            raise ConfigError(f"encode_windows takes one recording, got {len(sources)}; see encode_recordings")
        return map(encoded_window, self._windows.windows(sources, batch_size))

    def encode_recordings(
        self,
        paths: Sequence[str | Path],
        *,
        on_error: Callable[[Path, AudioFormatError], None] | None = None,
        batch_size: int = 8,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> Iterator[tuple[Path, list[EncodedWindow]]]:
        """Files with all their windows, in order; short files share a batch, which keeps a GPU busy.

        Args:
            on_error: called with each file that cannot be used, which is then left out; without it the error is raised.
        """
        files = [Path(path) for path in paths]
        skip = None if on_error is None else lambda number, error: on_error(files[number], error)
        sources = self._sources(files, None, convention, window_s, hop_s)
        for encoded in self._windows.by_recording(sources, batch_size, on_error=skip):
            yield files[encoded[0].recording], [encoded_window(window) for window in encoded]

    def classify_direction(
        self,
        audio: Audio,
        *,
        embedding: Literal["joint", "spatial"] = "joint",
        sample_rate: int | None = None,
        batch_size: int = 8,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> Any:
        """Zero-shot direction among the eight prompts "The sound is coming from the <compass word>."

        Returns:
            A `DirectionPrediction` for one recording; a list of them for a list or a batch.
        """
        _check_embedding(embedding, ("joint", "spatial"))
        cut: dict[str, Any] = {"batch_size": batch_size, "convention": convention, "window_s": window_s, "hop_s": hop_s}
        vectors = self.encode_audio(audio, sample_rate=sample_rate, embedding=embedding, convert_to_tensor=True, **cut)
        prompts = self.encode_text([direction_prompt(sector) for sector in SECTORS], convert_to_tensor=True)
        scale = self._model.log_temperature.detach().exp().cpu()
        predictions = []
        for row in (scale * vectors @ prompts.T).softmax(dim=-1):
            best = SECTORS[int(row.argmax())]
            probabilities = {sector.compass: float(row[sector.index]) for sector in SECTORS}
            predictions.append(DirectionPrediction(best.compass, best.azimuth_deg, probabilities))
        return predictions if is_collection(audio) else predictions[0]

    def localize(
        self,
        audio: Audio,
        *,
        sample_rate: int | None = None,
        batch_size: int = 8,
        convention: Convention = "ambix",
        window_s: float = 10.0,
        hop_s: float = 5.0,
    ) -> Any:
        """Direction of arrival by the DOA head: a `Localization` for one recording, a list for a list or a batch."""
        cut: dict[str, Any] = {"batch_size": batch_size, "convention": convention, "window_s": window_s, "hop_s": hop_s}
        azimuth, elevation = azimuth_elevation(self.encode_audio_parts(audio, sample_rate=sample_rate, **cut).doa)
        found = [Localization(math.degrees(a), math.degrees(e)) for a, e in zip(azimuth, elevation, strict=True)]
        return found if is_collection(audio) else found[0]

    def edit_direction(
        self,
        parts: EncodedParts | AudioParts,
        direction: str,
        *,
        normalize_embeddings: bool = True,
        convert_to_tensor: bool = False,
    ) -> Vectors:
        """Joint embeddings (recordings, 512) of the same sounds from another direction, equation 3.

        Args:
            parts: from `encode_audio_parts`, as arrays or tensors.
            direction: a word or phrase ("southwest", "behind me") for that sector's prompt, or a sentence of its own
                ("The sound is coming from above.").

        Raises:
            DirectionError: a single word that names no horizontal direction.
        """
        bare = len(direction.split()) < 2 or not strip_direction(direction)
        sentence = direction_prompt(parse_sector(direction)) if bare else direction
        prompt = self.encode_text(sentence, normalize_embeddings=False, convert_to_tensor=True)
        semantic, spatial = (torch.as_tensor(part).to(self.device) for part in (parts.semantic, parts.spatial))
        with torch.inference_mode():
            edited = self._model.edit_direction(semantic, spatial, torch.as_tensor(prompt).to(self.device))
        return _finish(edited.cpu(), normalize_embeddings, convert_to_tensor)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        precision: PrecisionName = "float32",
    ) -> "Embedder":
        """As `salm.load`: a bundled name, a checkpoint folder, or a Hugging Face repository."""
        return load(name_or_path, device=device, precision=precision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a checkpoint folder with the model card; loaded again it is the same model, fingerprint included.

        Raises:
            CheckpointError: the folder exists and holds something else.
        """
        checkpoint = self.checkpoint
        save_checkpoint(
            folder,
            checkpoint.model,
            checkpoint.config,
            checkpoint.tokenizer,
            card=checkpoint.card,
            dtype=checkpoint.dtype,
        )

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the checkpoint to a Hugging Face repository ("owner/name"), which is created if need be.

        Returns:
            Address of the commit.

        Raises:
            CheckpointError: the hub refuses, or is out of reach.
        """
        with tempfile.TemporaryDirectory() as staging:
            self.save_pretrained(Path(staging) / "model")
            return upload_checkpoint(Path(staging) / "model", repository, private=private, token=token)

    def _sources(
        self,
        audio: Audio,
        rate: int | None,
        convention: Convention,
        window_s: float,
        hop_s: float,
        allow_mono: bool = False,
    ) -> list[Recording]:
        clip_s = self.checkpoint.config.features.clip_s
        if window_s > clip_s:
            raise ConfigError(f"windows longer than {clip_s:g} s do not fit the model, got window_s={window_s:g}")
        return recordings(
            audio, sample_rate=rate, convention=convention, window_s=window_s, hop_s=hop_s, allow_mono=allow_mono
        )


def load(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    device: str | torch.device | None = None,
    precision: PrecisionName = "float32",
) -> Embedder:
    """Load a bundled model by name, a checkpoint folder, or a Hugging Face repository ("owner/name").

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
        ConfigError: there is no such device or precision.
        DependencyError: precision "int8" or "int16" cannot be had on this machine.
    """
    return Embedder(load_checkpoint(find_checkpoint(name_or_path)), device, precision)


def _finish(vectors: Tensor, normalize: bool, convert_to_tensor: bool) -> Any:
    vectors = functional.normalize(vectors, dim=-1) if normalize else vectors
    # Cloned out of inference mode: a caller may train on what is returned.
    return vectors.clone() if convert_to_tensor else vectors.numpy()


def _check_embedding(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"unknown embedding {name!r}; expected one of {', '.join(known)}")
