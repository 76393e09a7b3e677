"""An index as version 1 of the format had it: one FAISS file and one SQLite file, written anew by every commit."""

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import faiss
import numpy as np

SCHEMA = """
CREATE TABLE windows (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, azimuth_deg REAL,
    elevation_deg REAL, content_hash TEXT, metadata TEXT NOT NULL, UNIQUE (path, start_s, end_s)
)
"""


def write_schema_1(
    folder: Path, vectors: np.ndarray, rows: list[dict[str, Any]], model: str, generation: int = 7
) -> None:
    """Write the folder; each row has path, start_s and end_s, and the rest of it is metadata."""
    folder.mkdir()
    names = (f"vectors-{generation:08d}.faiss", f"rows-{generation:08d}.sqlite")
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors, np.arange(len(vectors)) + 3)
    faiss.write_index(index, str(folder / names[0]))
    connection = sqlite3.connect(folder / names[1])
    connection.execute(SCHEMA)
    connection.execute(f"PRAGMA application_id = {0x53414C4D}")
    connection.execute(f"PRAGMA user_version = {generation}")
    for number, row in enumerate(rows):
        metadata = {name: value for name, value in row.items() if name not in ("path", "start_s", "end_s")}
        values = (number + 3, row["path"], row["start_s"], row["end_s"], json.dumps(metadata))
        connection.execute("INSERT INTO windows VALUES (?, ?, ?, ?, NULL, NULL, NULL, ?)", values)
    connection.commit()
    connection.close()
    records = []
    for name in names:
        content = (folder / name).read_bytes()
        records.append({"name": name, "num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    header = {
        "model": model,
        "dimension": vectors.shape[1],
        "generation": generation,
        "num_windows": len(rows),
        "num_recordings": len({row["path"] for row in rows}),
        "next_id": len(rows) + 3,
        "max_norm": float(np.linalg.norm(vectors.astype(np.float64), axis=1).max(initial=0.0)),
        "vectors": records[0],
        "rows": records[1],
        "schema_version": 1,
        "kind": "flat",
        "metric": "inner_product",
        "convention": "azimuth_deg counter-clockwise",
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps({**header, "sha256": digest}, indent=2))
