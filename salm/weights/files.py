"""The files of a checkpoint folder, as far as they can be read without torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from salm.config import ModelConfig, from_mapping
from salm.errors import CheckpointError, ConfigError
from salm.text.tokenizer import FILE_NAME as TOKENIZER_FILE
from salm.text.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FORMAT_VERSION = 1
Shape = tuple[int, ...]


def read_config(folder: Path) -> ModelConfig:
    """The sizes that a checkpoint's model was built from.

    Raises:
        CheckpointError: a file of the folder is missing, or its configuration is damaged or of another format.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; expected a SALM checkpoint folder")
    path = folder / CONFIG_FILE
    try:
        document = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}, this SALM reads {FORMAT_VERSION}; "
            "upgrade with: pip install --upgrade salm"
        )
    try:
        return from_mapping(ModelConfig, document["model"], str(path))
    except KeyError as error:
        raise CheckpointError(f"{path}: no {error} in it; copy or download it again") from error
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a model's configuration ({error}); copy or download it again") from error


def read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """A checkpoint's tokenizer.

    Raises:
        CheckpointError: it is damaged, or knows more tokens than the model.
    """
    tokenizer = Tokenizer.load(folder, config.text.max_tokens)
    if tokenizer.vocabulary_size > config.text.vocabulary_size:
        raise CheckpointError(
            f"{folder / TOKENIZER_FILE}: {tokenizer.vocabulary_size} tokens, but the model was built for "
            f"{config.text.vocabulary_size}; the folder's files do not belong together"
        )
    return tokenizer


def check_fit(path: Path, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raise a `CheckpointError` where weights' names or shapes are not those of the configuration's model."""
    missing, surplus = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or surplus:
        raise CheckpointError(
            f"{path}: {len(missing)} weights missing {missing[:3]}, {len(surplus)} unknown {surplus[:3]}; "
            f"it does not fit {CONFIG_FILE}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(f"{path}: {name} has shape {found[name]}, expected {shape}")


def fingerprint(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 of configuration, tokenizer and weights."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:12]
