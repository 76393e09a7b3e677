"""Where the benchmarks' JSON goes."""

import json
import sys
from pathlib import Path
from typing import Any


def write_json(document: Any, path: Path | None) -> None:
    """Write a document to a file at once, or to stdout; the file's folder is made."""
    text = json.dumps(document, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
