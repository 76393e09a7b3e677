"""Any folder of sounds: labels from the names of folders or files, groups from a pattern in the path."""

import re
from collections import Counter
from pathlib import Path

from salm.errors import ManifestError
from salm.prepare.report import Report
from salm.prepare.sounds import AUDIO_SUFFIXES, Collection, Entry, collect, require_folder, words
from salm.progress import Progress

LABELS = ("folder", "file")


def prepare_folder(
    folder: str | Path,
    *,
    label_from: str = "folder",
    group_pattern: str | None = None,
    source: str | None = None,
    licence: str = "unknown",
    progress: Progress | None = None,
) -> Collection:
    """All audio files in a folder and the folders in it, in the order of their paths; hidden ones are passed over.

    Args:
        label_from: "folder" takes the words of the name of the folder that a file is in, "file" those of the file.
        group_pattern: regular expression that is searched in the path relative to `folder` (with forward slashes).
            Files for which it matches the same text (its first group, if it has one) are of one original recording.
            A file that it does not match is unusable. Without a pattern every file is its own recording.
        source, licence: written into every row; the source is by default the folder's name.

    Raises:
        ManifestError: no such folder, an invalid pattern, or no audio file.
    """
    folder = require_folder(folder, "a folder of audio files")
    if label_from not in LABELS:
        raise ManifestError(f"labels are from {' or '.join(LABELS)}; got {label_from!r}")
    pattern = _compiled(group_pattern)
    source = folder.resolve().name if source is None else source
    report, entries, others = Report(source), [], Counter[str]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if any(part.startswith(".") for part in Path(name).parts):
            others["hidden"] += 1
        elif path.suffix.lower() not in AUDIO_SUFFIXES:
            others[path.suffix.lower() or "without suffix"] += 1
        else:
            label = words(path.stem if label_from == "file" else path.parent.resolve().name)
            entries.append(Entry(name, path, label, (label,), _group(name, pattern, source), source, licence))
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        report.notes.append(f"files that were not looked at: {kinds}")
    if not entries:
        raise ManifestError(f"{folder}: no audio file in it; expected {', '.join(AUDIO_SUFFIXES)}")
    return collect(entries, report, progress=progress)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"{pattern!r} is not a regular expression ({error}); mend the pattern of groups") from error


def _group(name: str, pattern: re.Pattern[str] | None, source: str) -> str:
    """The data set and the text that the pattern finds; empty, which no manifest accepts, where it finds none."""
    if pattern is None:
        return f"{source}:{name}"
    found = pattern.search(name)
    text = "" if found is None else found[1 if pattern.groups else 0]
    return f"{source}:{text}" if text else ""
