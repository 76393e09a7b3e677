"""What an evaluation hands over: tables to print, and numbers as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salm.errors import ConfigError


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_document(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a document as JSON; a half-written file never takes the name.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another file with --json") from error


def to_json(value: Any) -> Any:
    """Dataclasses, arrays, tuples and mappings as JSON values; keys become texts, floats keep 6 digits."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def percent(share: float) -> str:
    """A share in percent with one decimal: "87.5"."""
    return f"{100.0 * share:.1f}"
