"""ESC-50: 2,000 clips of 5 s in 50 categories and five folds.

Layout (github.com/karolpiczak/ESC-50): ``meta/esc50.csv`` with `filename`, `fold`, `target`, `category`, `esc10`,
`src_file` (the Freesound id), `take`, and the folder ``audio``.
"""

from collections.abc import Collection as AnyCollection
from pathlib import Path

from salm.errors import ManifestError
from salm.prepare.report import Problem, Report
from salm.prepare.sounds import Collection, Entry, collect, require_folder, words
from salm.prepare.tables import read_table
from salm.progress import Progress

COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
FOLDS = (1, 2, 3, 4, 5)
LICENCE, ESC10_LICENCE = "CC-BY-NC 3.0", "CC-BY 3.0"


def prepare_esc50(
    folder: str | Path,
    *,
    folds: AnyCollection[int] = FOLDS,
    only_esc10: bool = False,
    progress: Progress | None = None,
) -> Collection:
    """The clips of ESC-50; label and caption of each is its category in words.

    Args:
        folder: the one that holds ``meta`` and ``audio``.
        folds: whose clips are taken.
        only_esc10: take the ten categories of ESC-10 alone.

    Raises:
        ManifestError: the table or a folder is missing or not ESC-50's, or no clip is chosen.
    """
    folder = require_folder(folder, "the folder ESC-50-master with meta and audio in it")
    if not folds or not set(folds) <= set(FOLDS):
        raise ManifestError(f"expected folds out of {', '.join(map(str, FOLDS))}, got {sorted(folds)}")
    table = folder / "meta" / "esc50.csv"
    rows = read_table(table, COLUMNS, "ESC-50")
    audio = require_folder(folder / "audio", "ESC-50's wav files")
    report, entries, lines = Report("ESC-50"), [], dict[str, int]()
    for row in rows:
        name, source = row["filename"].strip(), row["src_file"].strip()
        if row["fold"] not in map(str, FOLDS) or row["esc10"] not in ("True", "False") or not name or not source:
            raise ManifestError(
                f"{table}:{row.line}: expected a filename, a fold from 1 to 5, esc10 True or False, a src_file, got "
                f"{name!r}, {row['fold']!r}, {row['esc10']!r}, {source!r}; download the file again"
            )
        if name in lines:
            raise ManifestError(f"{table}:{row.line}: {name} is also in line {lines[name]}; keep one")
        lines[name] = row.line
        in_esc10 = row["esc10"] == "True"
        if int(row["fold"]) not in folds or (only_esc10 and not in_esc10):
            continue
        if not (audio / name).is_file():
            report.missing.append(Problem(name, f"no file {audio / name}"))
            continue
        label, licence = words(row["category"]), ESC10_LICENCE if in_esc10 else LICENCE
        origin = f"{'ESC-10' if in_esc10 else 'ESC-50'} fold {row['fold']}"
        entries.append(Entry(name, audio / name, label, (label,), f"fs:{source}", origin, licence))
    if not entries and not report.missing:
        raise ManifestError(f"{table}: no clip is in the folds {sorted(folds)}{' and in ESC-10' if only_esc10 else ''}")
    return collect(entries, report, progress=progress)
