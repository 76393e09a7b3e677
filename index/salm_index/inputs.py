"""What may enter an index: vectors that have a direction, rows whose fields mean what their names say."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from salm_index.errors import ModelMismatchError, QueryError, RowError, VectorError
from salm_index.header import KINDS
from salm_index.rows import COLUMNS, Row, Window

MAX_DIMENSION = 65536
MAX_NORM = 1e18
"""Largest norm of a vector: products of two such vectors stay within float32."""


def check_dimension(dimension: object) -> int:
    """Return the length of an index's vectors.

    Raises:
        VectorError: not an integer from 1 to `MAX_DIMENSION`.
    """
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSION:
        raise VectorError(f"expected dimension to be an integer from 1 to {MAX_DIMENSION}, got {dimension!r}")
    return dimension


def check_model_name(model: object) -> str:
    """Return the name of the model that makes an index's vectors.

    Raises:
        ModelMismatchError: not a text.
    """
    if not model or not is_text(model):
        raise ModelMismatchError(f"expected model to be the name of a model, got {model!r}")
    return str(model)


def check_kind(kind: object) -> str:
    """Return one of `KINDS`.

    Raises:
        QueryError: something else.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise QueryError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    return kind


def check_recall(recall: object) -> float:
    """Return a recall that a search should reach.

    Raises:
        QueryError: not above 0 and at most 1.
    """
    if isinstance(recall, bool) or not isinstance(recall, int | float) or not 0 < recall <= 1:
        raise QueryError(f"recall: expected a number above 0 and at most 1, got {recall!r}")
    return float(recall)


def check_vectors(vectors: ArrayLike, dimension: int, what: str) -> NDArray[np.float32]:
    """Return `vectors` as C-contiguous float32, shape (count, dimension).

    Args:
        vectors: any real numbers of shape (count, dimension); norms may differ from 1.
        dimension: the index's dimension.
        what: what the vectors are, for messages ("vectors", "query").

    Raises:
        VectorError: wrong shape or type, or a vector that is zero, too large, or not finite.
    """
    try:
        array = np.asarray(vectors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise VectorError(f"{what}: expected an array of shape (count, {dimension}), got {error}") from None
    if array.dtype.kind not in "fiu":
        raise VectorError(f"{what}: expected real numbers (float32), got {array.dtype}; convert them first")
    if array.ndim != 2 or array.shape[1] != dimension:
        raise VectorError(
            f"{what}: expected shape (count, {dimension}), got {array.shape}; "
            "the vectors must come from the model that the index was made with"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    norms = vector_norms(array)
    wrong = np.flatnonzero(~((norms > 0) & (norms <= MAX_NORM)))
    if wrong.size:
        norm = norms[wrong[0]]
        problem = "is zero" if norm == 0 else "is too large" if np.isfinite(norm) else "holds NaN or infinity"
        raise VectorError(
            f"{what}: vector {wrong[0]} {problem} ({wrong.size} such of {len(array)}); "
            "expected finite vectors with a direction: leave these out or encode their recordings again"
        )
    return array


def check_query(query: ArrayLike, dimension: int) -> NDArray[np.float32]:
    """Return one query of shape (dimension,) or (1, dimension) as float32 of shape (1, dimension).

    Raises:
        VectorError: not one vector, or as in `check_vectors`.
    """
    try:
        array = np.atleast_2d(np.asarray(query))
    except (TypeError, ValueError, RuntimeError) as error:
        raise VectorError(f"query: expected an array of shape ({dimension},), got {error}") from None
    if array.ndim == 2 and len(array) != 1:
        raise VectorError(f"query: expected one vector, got {len(array)}; use search_many for several")
    return check_vectors(array, dimension, "query")


def vector_norms(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean norms of vectors of shape (count, dimension)."""
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def check_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return one path or several as a list of texts.

    Raises:
        RowError: something that is no path.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    checked = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths]
    for path in checked:
        if not isinstance(path, str):
            raise RowError(f"paths: expected file names as text, got {path!r}")
    return checked


def is_text(value: object) -> bool:
    """Whether a value is text that SQLite and JSON can hold: valid Unicode, no null character."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_metadata_name(name: object) -> bool:
    """Whether a filter can reach metadata of this name: SQLite's JSON paths cannot quote these characters."""
    return is_text(name) and name != "" and not any(c in '"\\' or ord(c) < 32 for c in str(name))


def check_rows(rows: Sequence[Mapping[str, Any]], num_vectors: int) -> list[Row]:
    """Return checked rows, one per vector.

    Raises:
        RowError: another number of rows than vectors, a missing or invalid field, one window twice, or windows of
            one path with different content hashes.
    """
    if isinstance(rows, Mapping | str) or not isinstance(rows, Sequence):
        raise RowError(f"rows: expected a list of dicts, one per vector, got {type(rows).__name__}")
    if len(rows) != num_vectors:
        raise RowError(f"rows: expected one row per vector ({num_vectors}), got {len(rows)}")
    checked = [_check_row(number, row) for number, row in enumerate(rows)]
    seen: set[tuple[str, float, float]] = set()
    hashes: dict[str, str | None] = {}
    for number, row in enumerate(checked):
        window = (row.path, row.start_s, row.end_s)
        if window in seen:
            raise RowError(f"row {number} ({row.describe()}): the same window comes twice; give each window once")
        seen.add(window)
        if hashes.setdefault(row.path, row.content_hash) != row.content_hash:
            raise RowError(
                f"row {number} ({row.describe()}): expected content_hash {hashes[row.path]!r} as in the other "
                f"windows of this path, got {row.content_hash!r}; all windows must come from one reading of the file"
            )
    return checked


def check_new(rows: Sequence[Row], known: Iterable[Window]) -> None:
    """Check that checked rows can come to windows of the same paths that are in the index.

    Raises:
        RowError: a window is there already, or its path with another content hash.
    """
    windows: dict[str, list[Window]] = {}
    for window in known:
        windows.setdefault(window.path, []).append(window)
    for number, row in enumerate(rows):
        for window in windows.get(row.path, ()):
            if window.content_hash != row.content_hash:
                raise RowError(
                    f"row {number} ({row.describe()}): the index has this path with content_hash "
                    f"{window.content_hash!r}, got {row.content_hash!r}; use Index.replace for a file that has changed"
                )
            if (window.start_s, window.end_s) == (row.start_s, row.end_s):
                raise RowError(
                    f"row {number} ({row.describe()}): this window is in the index already; "
                    "use Index.replace to put it in place of the old one"
                )


def _check_row(number: int, row: Mapping[str, Any]) -> Row:
    where = f"row {number}"
    if not isinstance(row, Mapping):
        raise RowError(f"{where}: expected a dict with path, start_s and end_s, got {type(row).__name__}")
    path = _check_path(where, row)
    where = f"{where} ({path})"
    start_s = _check_number(where, row, "start_s", 0.0, math.inf)
    end_s = _check_number(where, row, "end_s", start_s, math.inf)
    azimuth_deg = _check_optional(where, row, "azimuth_deg", 180.0)
    content_hash = row.get("content_hash")
    if content_hash is not None and not is_text(content_hash):
        raise RowError(f"{where}: expected content_hash to be text, got {content_hash!r}")
    return Row(
        path=path,
        start_s=start_s,
        end_s=end_s,
        # -180 and 180 are one direction; the convention's range is (-180, 180].
        azimuth_deg=180.0 if azimuth_deg == -180.0 else azimuth_deg,
        elevation_deg=_check_optional(where, row, "elevation_deg", 90.0),
        content_hash=content_hash,
        metadata=_check_metadata(where, row),
    )


def _check_path(where: str, row: Mapping[str, Any]) -> str:
    path: Any = row.get("path")
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not path or not is_text(path):
        raise RowError(f"{where}: expected path to be a file name that is valid Unicode, got {path!r}")
    return str(path)


def _check_number(where: str, row: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = row.get(name)
    try:
        number = math.nan if value is None or isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        raise RowError(f"{where}: expected {name} to be a number from {low:g} to {high:g}, got {value!r}")
    return number


def _check_optional(where: str, row: Mapping[str, Any], name: str, limit_deg: float) -> float | None:
    if row.get(name) is None:
        return None
    return _check_number(where, row, name, -limit_deg, limit_deg)


def _check_metadata(where: str, row: Mapping[str, Any]) -> str:
    metadata = {name: value for name, value in row.items() if name not in COLUMNS}
    for name in metadata:
        if not is_metadata_name(name):
            raise RowError(f"{where}: metadata name {name!r}: expected text without quotes, backslashes and controls")
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, default=_plain)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"{where}: metadata must be JSON (text, finite numbers, lists, dicts): {error}") from None
    return text


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
