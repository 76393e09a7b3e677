"""What became of every entry of a data set: kept, missing or unusable. Nothing is left out without a line here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from salm.errors import ManifestError


@dataclass(frozen=True)
class Problem:
    """What was left out, under the data set's own name for it, and why; `count` is how many entries it stands for."""

    entry: str
    reason: str
    count: int = 1


@dataclass
class Report:
    """Counts and lists of one run; `listed` is the sum of `kept`, the missing and the unusable entries.

    Args:
        listed: entries that the data set names.
        missing: entries whose file is not there.
        unusable: entries whose file is there and cannot be used.
        notes: what a user should know of those that were kept.
    """

    data_set: str
    listed: int = 0
    kept: int = 0
    missing: list[Problem] = field(default_factory=list)
    unusable: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_missing(self) -> int:
        return sum(problem.count for problem in self.missing)

    @property
    def num_unusable(self) -> int:
        return sum(problem.count for problem in self.unusable)

    @property
    def summary(self) -> str:
        return f"{self.kept} of {self.listed} ({self.num_missing} missing, {self.num_unusable} unusable)"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, every list in full."""
        return asdict(self) | {"num_missing": self.num_missing, "num_unusable": self.num_unusable}

    def save(self, path: str | Path) -> None:
        """Write the report as JSON; a half-written file never takes the name."""
        path = new_file(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)

    def lines(self, most: int = 20) -> Iterator[str]:
        """The report as text; of each list at most `most` entries, and how many are not shown."""
        yield f"{self.data_set}: kept {self.summary}"
        yield from (f"  note: {note}" for note in self.notes)
        yield from _listed("missing", self.missing, most)
        yield from _listed("unusable", self.unusable, most)


def new_file(path: str | Path) -> Path:
    """`path`, whose folder is made if it is not there.

    Raises:
        ManifestError: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ManifestError(f"{path}: a folder, expected the name of a file to write; append one")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _listed(title: str, problems: Sequence[Problem], most: int) -> Iterator[str]:
    yield from (f"  {title}: {problem.entry}: {problem.reason}" for problem in problems[:most])
    if len(problems) > most:
        yield f"  {title}: and {len(problems) - most} more; the JSON report has them all"
