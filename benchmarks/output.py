"""Where the benchmarks' JSON goes."""

import json
import sys
from pathlib import Path
from typing import Any


def write_json(document: Any, path: Path | None) -> None:
    """Write a document to a file, whose folder is made, or to stdout."""
    text = json.dumps(document, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
