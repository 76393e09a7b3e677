"""Caption corpora in their public layouts -> plain lists of sentences."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from salm.errors import ManifestError


def read_corpus(path: str | Path) -> list[str]:
    """Every caption of one corpus file, in file order, duplicates left out.

    Known layouts, told apart by their columns or keys: AudioCaps (`caption`), Clotho (`caption_1` to `caption_5`), BBC
    Sound Effects (`description`), WavCaps (`data` with title, description, caption), the AudioSet ontology (name and
    description), a SALM dry-sound manifest (label and captions), AudioSet's class list (`display_name`).

    Raises:
        ManifestError: the file is missing or has none of these layouts.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path}: no such caption corpus; see `configs/salm-small-text.yaml` for the files used")
    sentences = _from_json(path) if path.suffix == ".json" else _from_csv(path)
    return list(dict.fromkeys(text for text in (sentence.strip() for sentence in sentences) if text))


def read_corpora(paths: Iterable[str | Path]) -> list[str]:
    """The captions of several files, duplicates left out."""
    return list(dict.fromkeys(sentence for path in paths for sentence in read_corpus(path)))


def _from_csv(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        chosen = [name for name in columns if name in ("caption", "label", "description", "display_name")]
        chosen += [name for name in columns if name.startswith("caption_")]
        if not chosen:
            raise ManifestError(
                f"{path}: no caption column among {', '.join(columns) or 'none'}; expected caption, caption_1..5, "
                "description or display_name"
            )
        return [part for row in rows for name in chosen for part in (row[name] or "").split(" | ")]


def _from_json(path: Path) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, dict) and "data" in document:
        return [str(row.get(key, "")) for row in document["data"] for key in ("title", "description", "caption")]
    if isinstance(document, list) and document and isinstance(document[0], dict) and "name" in document[0]:
        return [str(row.get(key, "")) for row in document for key in ("name", "description")]
    raise ManifestError(f"{path}: expected WavCaps' or the AudioSet ontology's layout, got other JSON")
