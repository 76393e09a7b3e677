"""Clotho: one table of captions per split, one folder of wav files per split.

Layout (Zenodo 3490684, 4783391): ``clotho_captions_<split>.csv`` with `file_name` and `caption_1` to `caption_5`, and
``clotho_metadata_<split>.csv`` with `file_name`, `sound_id` (of Freesound), `sound_link`, `license`, among others, in
UTF-8 or Latin-1. Some file names begin with a space.
"""

import re
from pathlib import Path

from salm.errors import ManifestError
from salm.prepare.report import Problem, Report
from salm.prepare.sounds import Collection, Entry, caption_label, collect, require_folder
from salm.prepare.tables import TableRow, read_table
from salm.progress import Progress

LICENCE = "Creative Commons, one for each clip (see Clotho's metadata)"


def prepare_clotho(
    captions_csv: str | Path,
    audio_dir: str | Path,
    *,
    metadata_csv: str | Path | None = None,
    progress: Progress | None = None,
) -> Collection:
    """The clips of one split of Clotho.

    Args:
        metadata_csv: gives each clip its Freesound id as group, its page and its licence; by default the table beside
            `captions_csv` whose name says metadata instead of captions, if it is there.

    Raises:
        ManifestError: a table or folder is missing or not Clotho's.
    """
    captions_csv = Path(captions_csv)
    rows = read_table(captions_csv, ["file_name", "caption_1"], "Clotho")
    columns = sorted(name for name in rows[0].values if re.fullmatch(r"caption_\d+", name))
    audio_dir = require_folder(audio_dir, "the folder of Clotho's wav files of this split")
    report = Report("Clotho")
    metadata = _metadata(captions_csv, metadata_csv, report)
    entries, lines = [], dict[str, int]()
    for row in rows:
        name = row["file_name"]
        if not name.strip():
            raise ManifestError(f"{captions_csv}:{row.line}: file_name is empty; download the file again")
        if name in lines:
            raise ManifestError(f"{captions_csv}:{row.line}: {name} is also in line {lines[name]}; keep one")
        lines[name] = row.line
        path = next((path for path in (audio_dir / name, audio_dir / name.strip()) if path.is_file()), None)
        if path is None:
            report.missing.append(Problem(name, f"no file {audio_dir / name}"))
            continue
        captions = tuple(row[column] for column in columns)
        about = metadata.get(name.strip())
        entries.append(
            Entry(name, path, caption_label(captions), captions, _group(name, about), _source(about), _licence(about))
        )
    return collect(entries, report, progress=progress)


def _metadata(captions_csv: Path, metadata_csv: str | Path | None, report: Report) -> dict[str, TableRow]:
    if metadata_csv is None:
        beside = captions_csv.with_name(captions_csv.name.replace("captions", "metadata"))
        if beside == captions_csv or not beside.is_file():
            report.notes.append("no metadata table: a clip's group is its own name, not its Freesound id")
            return {}
        metadata_csv = beside
    columns = ["file_name", "sound_id", "sound_link", "license"]
    rows = read_table(metadata_csv, columns, "Clotho", encodings=("utf-8-sig", "latin-1"))
    report.notes.append(f"groups, pages and licences are from {metadata_csv}")
    return {row["file_name"].strip(): row for row in rows}


def _group(name: str, about: TableRow | None) -> str:
    """The Freesound id; where the table has none ("Not found"), the clip's own name."""
    if about is not None and about["sound_id"].strip().isdecimal():
        return f"fs:{about['sound_id'].strip()}"
    return f"clotho:{name.strip()}"


def _source(about: TableRow | None) -> str:
    link = about["sound_link"].strip() if about is not None else ""
    return f"Clotho, {link}" if link.startswith("http") else "Clotho"


def _licence(about: TableRow | None) -> str:
    return (about["license"].strip() if about is not None else "") or LICENCE
