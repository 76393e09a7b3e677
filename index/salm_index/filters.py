"""`where={...}`: from a mapping of names to conditions to one SQL condition. All conditions must hold.

A condition is
- `(lo, hi)`: a number within this closed range; `None` leaves an end open. For `azimuth_deg` the range runs
  counter-clockwise from lo to hi and may cross the back: (157.5, -157.5), or (157.5, 202.5), is the 45 degrees behind;
- text, a number or a bool: equality. For `path` the text is a shell pattern in which `*` also crosses `/`; a path
  that is equal to it always matches;
- a list of texts: any of them;
- `None`: the value is not known.

A row without a value matches no range and no equality.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from salm_index.errors import QueryError
from salm_index.inputs import is_metadata_name, is_text
from salm_index.numbers import NUMBER_COLUMNS, Span
from salm_index.rows import COLUMNS, metadata_value

TEXT_COLUMNS = ("path", "content_hash")


class Clause(NamedTuple):
    """An SQL condition with its parameters."""

    sql: str
    parameters: tuple[Any, ...]


class Filter(NamedTuple):
    """A filter as SQL, and as ranges of columns if it is of nothing but such."""

    clause: Clause
    spans: tuple[Span, ...] | None


def parse_where(where: Mapping[str, Any]) -> Clause:
    """Turn `where` into one SQL condition over the table `windows`.

    Raises:
        QueryError: a name or condition that means nothing.
    """
    if not isinstance(where, Mapping):
        raise QueryError(f"where: expected a dict of names to conditions, got {type(where).__name__}")
    clauses = [_clause(name, condition) for name, condition in where.items()]
    return Clause(
        " AND ".join(f"({clause.sql})" for clause in clauses) or "1",
        tuple(value for clause in clauses for value in clause.parameters),
    )


def parse_filter(where: Mapping[str, Any]) -> Filter:
    """`where` in both forms that a segment can be asked in.

    Raises:
        QueryError: as `parse_where`.
    """
    clause = parse_where(where)
    spans = [_span(name, condition) for name, condition in where.items()]
    known = tuple(span for span in spans if span is not None)
    return Filter(clause, known if len(known) == len(spans) else None)


def metadata_names(where: Mapping[str, Any]) -> list[str]:
    """The names in `where` that a row must have had as metadata for the filter to match anything."""
    return [name for name, condition in where.items() if name not in COLUMNS and condition is not None]


def _clause(name: str, condition: Any) -> Clause:
    if not is_metadata_name(name):
        raise QueryError(f"where: {name!r} is no name of a column or of metadata")
    value = name if name in COLUMNS else metadata_value(name)
    if condition is None:
        return Clause(f"{value} IS NULL", ())
    if isinstance(condition, str):
        return _text(name, value, condition)
    if isinstance(condition, list | tuple) and condition and all(isinstance(item, str) for item in condition):
        clauses = [_text(name, value, item) for item in condition]
        return Clause(
            " OR ".join(f"({clause.sql})" for clause in clauses),
            tuple(parameter for clause in clauses for parameter in clause.parameters),
        )
    if name in TEXT_COLUMNS:
        raise QueryError(f"where: {name}: expected text or a list of texts, got {condition!r}")
    if isinstance(condition, list | tuple):
        return _range(name, value, condition)
    number = _number(name, condition)
    return Clause(f"{value} = ?", (_wrap_deg(number) if name == "azimuth_deg" else number,))


def _span(name: str, condition: Any) -> Span | None:
    """A condition, which has been checked, as a range of a column."""
    if name not in NUMBER_COLUMNS or condition is None:
        return None
    ends = condition if isinstance(condition, list | tuple) else (condition, condition)
    low, high = (None if end is None else float(_number(name, end)) for end in ends)
    if name == "azimuth_deg" and low is not None and high is not None:
        low, high = (-180.0, 180.0) if high - low >= 360 else (_wrap_deg(low), _wrap_deg(high))
    return Span(name, -math.inf if low is None else low, math.inf if high is None else high)


def _text(name: str, value: str, text: str) -> Clause:
    if name in COLUMNS and name not in TEXT_COLUMNS:
        raise QueryError(f"where: {name}: expected a number or a range (lo, hi), got {text!r}")
    if not is_text(text):
        raise QueryError(f"where: {name}: expected valid Unicode, got {text!r}")
    if name == "path":
        # SQLite negates a character class by ^, the shell by !.
        return Clause("path = ? OR path GLOB ?", (text, text.replace("[!", "[^")))
    return Clause(f"{value} = ?", (text,))


def _range(name: str, value: str, condition: list[Any] | tuple[Any, ...]) -> Clause:
    if len(condition) != 2:
        raise QueryError(f"where: {name}: expected a range (lo, hi) or a list of texts, got {condition!r}")
    low, high = (None if end is None else _number(name, end) for end in condition)
    if name == "azimuth_deg":
        return _sector(condition, low, high)
    if low is not None and high is not None and low > high:
        raise QueryError(f"where: {name}: expected a range with lo <= hi, got {condition!r}")
    # In SQLite every text is greater than every number.
    tests = [f"typeof({value}) IN ('integer', 'real')"]
    tests += [f"{value} >= ?"] * (low is not None) + [f"{value} <= ?"] * (high is not None)
    return Clause(" AND ".join(tests), tuple(end for end in (low, high) if end is not None))


def _sector(condition: object, low: float | None, high: float | None) -> Clause:
    if low is None or high is None:
        raise QueryError(f"where: azimuth_deg: expected both ends of a sector in degrees, got {condition!r}")
    low_deg, high_deg = _wrap_deg(low), _wrap_deg(high)
    if high - low >= 360:
        return Clause("azimuth_deg IS NOT NULL", ())
    if low_deg <= high_deg:
        return Clause("azimuth_deg >= ? AND azimuth_deg <= ?", (low_deg, high_deg))
    return Clause("azimuth_deg >= ? OR azimuth_deg <= ?", (low_deg, high_deg))


def _wrap_deg(azimuth_deg: float) -> float:
    """The same azimuth in (-180, 180]."""
    if not -360 <= azimuth_deg <= 360:
        raise QueryError(f"where: azimuth_deg: expected degrees from -360 to 360, got {azimuth_deg:g}")
    if azimuth_deg > 180:
        return azimuth_deg - 360
    return azimuth_deg + 360 if azimuth_deg <= -180 else azimuth_deg


def _number(name: str, value: Any) -> float | int:
    try:
        # json accepts numpy numbers through item(), and refuses what SQLite cannot compare.
        number = value.item() if hasattr(value, "item") else value
        json.dumps(number, allow_nan=False)
    except (TypeError, ValueError):
        number = None
    if not isinstance(number, int | float) or not math.isfinite(number) or abs(number) >= 2**63:
        raise QueryError(f"where: {name}: expected text, a finite number or a range (lo, hi), got {value!r}")
    return number
