"""The CSV tables of public data sets."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salm.errors import ManifestError


@dataclass(frozen=True)
class TableRow:
    """One row: its line in the file and its values by column."""

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]


def read_table(
    path: str | Path, columns: Sequence[str], data_set: str, *, encodings: Sequence[str] = ("utf-8-sig",)
) -> list[TableRow]:
    """The rows of a table that has at least these columns; empty lines are passed over.

    Args:
        data_set: named in the errors.
        encodings: tried in this order.

    Raises:
        ManifestError: with file and line: no such file, not text, other columns, a row of another length, no rows.
    """
    path = Path(path)
    expected = f"expected {data_set}'s CSV with the columns {', '.join(columns)}"
    if not path.is_file():
        raise ManifestError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; {expected}; check the path")
    reader = csv.reader(io.StringIO(_decoded(path, encodings, expected), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing or len(set(header)) < len(header):
            problem = f"without {', '.join(missing)}" if missing else "one stands twice"
            raise ManifestError(
                f"{path}:1: {expected}, got {', '.join(header) or 'none'} ({problem}); is it that file?"
            )
        rows = []
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise ManifestError(
                    f"{path}:{reader.line_num}: {len(values)} values for {len(header)} columns; download the file "
                    "again, or quote values that contain a comma"
                )
            rows.append(TableRow(reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise ManifestError(f"{path}:{reader.line_num}: not valid CSV ({error}); download the file again") from error
    if not rows:
        raise ManifestError(f"{path}: no rows under the header; {expected}; download the file again")
    return rows


def _decoded(path: Path, encodings: Sequence[str], expected: str) -> str:
    data = path.read_bytes()
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            problem = error
    raise ManifestError(f"{path}: not text ({problem.reason} at byte {problem.start}); {expected}") from problem
