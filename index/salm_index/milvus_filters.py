"""`where={...}` as a boolean expression of Milvus that means the same as `salm_index.filters`.

Milvus' expressions have traps: how a quote, a backslash or a line break is escaped differs between versions, LIKE
cannot look for `%` or `_` everywhere, a number in JSON does not equal the same number as a float, and a comparison
with a missing value is neither true nor false. So no text of a user is ever part of an expression:

- a path is stored a second time in hexadecimal (`path_hex`), where equality, prefix and suffix are those of the path;
- metadata and content hash are stored as `facts`: one digest per name ("has this") and per name and value ("equals
  this"), over the value as SQLite sees it.

What these cannot say (most shell patterns, ranges of metadata) is narrowed down as far as they can, and
`Narrowed.matches` then asks SQLite, with the very condition that a local index would use.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from salm_index.errors import RowError
from salm_index.filters import Clause, parse_where
from salm_index.rows import COLUMNS, SCHEMA, Row, metadata_value

NOTHING, EVERYTHING = 'id == ""', 'id != ""'
"""Hold for no window and for every one: an id is a digest."""

PATH_FIELD = "path_hex"
"""What the windows of a recording are found by."""

MAX_FACTS = 4096
"""Largest capacity of an array in Milvus."""

ALWAYS_KNOWN = ("path", "start_s", "end_s")


class Narrowed(NamedTuple):
    """A filter as an expression of Milvus; empty if it lets everything through.

    Args:
        expression: holds for every window that fulfils the filter, and for others too unless `is_exact`.
        is_exact: whether the two are the same.
        clause: the filter itself.
    """

    expression: str
    is_exact: bool
    clause: Clause

    def matches(self, rows: Sequence[Row]) -> list[bool]:
        """Which of these rows fulfil the filter."""
        if self.is_exact:
            return [True] * len(rows)
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(SCHEMA)
            connection.executemany(
                "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ((i, *row) for i, row in enumerate(rows))
            )
            found = connection.execute(f"SELECT id FROM windows WHERE {self.clause.sql}", self.clause.parameters)
            places = {place for (place,) in found}
        return [place in places for place in range(len(rows))]


def narrow(where: Mapping[str, Any] | None) -> Narrowed:
    """Translate `where`; None is no filter.

    Raises:
        QueryError: as `filters.parse_where`.
    """
    clause = parse_where({} if where is None else where)
    terms = [_term(name, condition) for name, condition in (where or {}).items()]
    return Narrowed(
        " and ".join(f"({expression})" for expression, _ in terms if expression),
        all(is_exact for _, is_exact in terms),
        clause,
    )


def path_hex(path: str) -> str:
    """A path as it can stand in an expression."""
    return path.encode().hex()


def has_metadata(name: str) -> str:
    """The expression for windows that have metadata of this name."""
    return f'array_contains(facts, "{_digest(name)}")'


def facts_of(rows: Iterable[Row]) -> list[list[str]]:
    """What each row can be asked for by equality.

    Raises:
        RowError: a row with more metadata than fits into an array of Milvus.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        return [_facts(connection, row) for row in rows]


def _facts(connection: sqlite3.Connection, row: Row) -> list[str]:
    facts = [] if row.content_hash is None else [_digest("content_hash", row.content_hash)]
    for name in json.loads(row.metadata):
        sql = f"SELECT {metadata_value(name)} FROM (SELECT ? AS metadata)"
        (value,) = connection.execute(sql, (row.metadata,)).fetchone()
        if value is not None:
            facts += [_digest(name), _digest(name, value)]
    if len(facts) > MAX_FACTS:
        raise RowError(
            f"{row.describe()}: expected at most {MAX_FACTS // 2} fields of metadata for a Milvus collection"
        )
    return facts


def _digest(name: str, *value: str | float) -> str:
    """A name, or a name and a value; numbers that are equal have one digest."""
    parts = [int(part) if isinstance(part, float) and part.is_integer() else part for part in (name, *value)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _term(name: str, condition: Any) -> tuple[str, bool]:
    """The expression of one condition, which has been checked, and whether it is exact."""
    texts = [condition] if isinstance(condition, str) else condition
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts):
        if name == "path":
            terms = [_path_term(text) for text in texts]
            expressions = [expression for expression, _ in terms]
            joined = expressions[0] if len(terms) == 1 else " or ".join(f"({one})" for one in expressions)
            return joined, all(is_exact for _, is_exact in terms)
        digests = ", ".join(f'"{_digest(name, text)}"' for text in texts)
        return f"array_contains_any(facts, [{digests}])", True
    if condition is None:
        if name in ALWAYS_KNOWN:
            return NOTHING, True
        return (f"{name} is null" if name in COLUMNS else f"not {has_metadata(name)}"), True
    if name in COLUMNS:
        return _number_term(name, condition), True
    if isinstance(condition, list | tuple):
        return has_metadata(name), False
    number = condition.item() if hasattr(condition, "item") else condition
    return f'array_contains(facts, "{_digest(name, int(number) if isinstance(number, bool) else number)}")', True


def _number_term(name: str, condition: Any) -> str:
    """The condition that a local index has on a column of numbers, in Milvus' words."""
    sql, parameters = parse_where({name: condition})
    terms = sql.removeprefix("(").removesuffix(")").split(" AND ")
    if len(terms) == 1 and terms[0].startswith("typeof"):
        return EVERYTHING if name in ALWAYS_KNOWN else f"{name} is not null"
    words = " and ".join(term for term in terms if not term.startswith("typeof")).replace(" = ", " == ").split(" ")
    values = iter(parameters)
    joined = " ".join(repr(float(next(values))) if word == "?" else word for word in words)
    return joined.replace(" OR ", " or ").replace("IS NOT NULL", "is not null")


def _path_term(pattern: str) -> tuple[str, bool]:
    special = [match.start() for match in re.finditer(r"[*?\[]", pattern)]
    if not special:
        return f'{PATH_FIELD} == "{path_hex(pattern)}"', True
    head, tail = pattern[: special[0]], pattern[special[-1] + 1 :]
    if "[" in pattern:
        tail = ""
    if not head and not tail:
        return EVERYTHING, pattern == "*"
    # Both ends are whole bytes, so what one star stands for is whole as well.
    return f'{PATH_FIELD} like "{path_hex(head)}%{path_hex(tail)}"', pattern[special[0] :] == f"*{tail}"
