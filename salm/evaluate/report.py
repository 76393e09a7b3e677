"""What an evaluation hands over: tables to print, and numbers as JSON."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salm.errors import ConfigError

_LINE = 120


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_document(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a document as JSON; its folder is made, a half-written file never takes the name.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json_text(content) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another file with --json") from error


def json_text(value: Any, indent: int = 0) -> str:
    """JSON values as text for people: what fits on a line stands on one, long lists of numbers fill their lines."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, Mapping | list) or indent + len(flat) <= _LINE:
        return flat
    inner = indent + 2
    opening, closing = flat[0], flat[-1]
    if isinstance(value, Mapping):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {json_text(item, inner)}," for key, item in value.items()]
    elif all(isinstance(item, int | float) for item in value):
        items = textwrap.wrap(flat[1:-1] + ",", _LINE - inner, break_long_words=False, break_on_hyphens=False)
    else:
        items = [f"{json_text(item, inner)}," for item in value]
    lines = "".join(f"\n{' ' * inner}{item}" for item in items).removesuffix(",")
    return f"{opening}{lines}\n{' ' * indent}{closing}"


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
