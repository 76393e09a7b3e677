"""SALM: contrastive embedding and retrieval of spatial sound.

The functions use one cached default model, the bundled `salm-small`; `salm.load` gives others, with the same methods.
Importing this package does no work: torch is imported when a function is first called.
"""

from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salm.embedder import Embedder

    SALM = Embedder

__version__ = "0.1.0"
__all__ = [
    "SALM",
    "classify_direction",
    "edit_direction",
    "encode_audio",
    "encode_audio_parts",
    "encode_text",
    "load",
    "localize",
]


def load(name_or_path: Any = "salm-small", *, device: Any = None, precision: Any = "float32") -> "Embedder":
    """Load a bundled model by name, a checkpoint folder, or a Hugging Face repository; see `salm.embedder.load`."""
    from salm.embedder import load as load_embedder

    return load_embedder(name_or_path, device=device, precision=precision)


def __getattr__(name: str) -> Any:
    """`salm.SALM`, the class of a loaded model, with `from_pretrained`, `save_pretrained` and `push_to_hub`."""
    if name == "SALM":
        from salm.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'salm' has no attribute {name!r}")


_lock = Lock()


def _default() -> "Embedder":
    with _lock:  # else threads that come first would each load it
        return _load_default()


@cache
def _load_default() -> "Embedder":
    return load()


def encode_audio(audio: Any, **options: Any) -> Any:
    """Embeddings of recordings by the default model, (recordings, 512); see `Embedder.encode_audio`."""
    return _default().encode_audio(audio, **options)


def encode_audio_parts(audio: Any, **options: Any) -> Any:
    """Unnormalised parts of recordings' embeddings by the default model; see `Embedder.encode_audio_parts`."""
    return _default().encode_audio_parts(audio, **options)


def encode_text(texts: Any, **options: Any) -> Any:
    """Embeddings of sentences by the default model, (sentences, 512); see `Embedder.encode_text`."""
    return _default().encode_text(texts, **options)


def classify_direction(audio: Any, **options: Any) -> Any:
    """Zero-shot direction of recordings by the default model; see `Embedder.classify_direction`."""
    return _default().classify_direction(audio, **options)


def localize(audio: Any, **options: Any) -> Any:
    """Direction of arrival of recordings by the default model; see `Embedder.localize`."""
    return _default().localize(audio, **options)


def edit_direction(parts: Any, direction: str, **options: Any) -> Any:
    """Joint embeddings of the same sounds from another direction; see `Embedder.edit_direction`."""
    return _default().edit_direction(parts, direction, **options)
