"""An index as files for everything else: `vectors.npy` and `rows.parquet`, row for row."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from salm_index.errors import IndexExistsError, MissingDependencyError
from salm_index.generations import Snapshot
from salm_index.rows import COLUMNS

VECTORS_NAME = "vectors.npy"
ROWS_NAME = "rows.parquet"


def export(snapshot: Snapshot, folder: Path) -> None:
    """Write all windows in the order of their ids, a batch at a time.

    `vectors.npy` holds float32 of shape (windows, dimension); `rows.parquet` the columns of `COLUMNS` and `metadata`
    (JSON text), with `model` and `convention` in the file's key-value metadata.

    Args:
        snapshot: the generation.
        folder: a new or empty folder; it appears when it is complete.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        IndexExistsError: the folder holds something.
        OSError: it cannot be written.
    """
    arrow, parquet = _pyarrow()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IndexExistsError(f"{folder}: expected a new or empty folder; choose another path")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(snapshot, temporary, arrow, parquet)
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(snapshot: Snapshot, folder: Path, arrow: Any, parquet: Any) -> None:
    header = snapshot.header
    text, number = arrow.string(), arrow.float64()
    schema = arrow.schema(
        [(name, text if name in ("path", "content_hash") else number) for name in COLUMNS] + [("metadata", text)],
        metadata={"model": header.model, "convention": header.convention},
    )
    shape = (header.num_windows, header.dimension)
    with (folder / VECTORS_NAME).open("wb") as vectors, parquet.ParquetWriter(folder / ROWS_NAME, schema) as rows:
        description = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(vectors, description)
        for part in snapshot.parts:
            for batch in part.batches():
                vectors.write(np.ascontiguousarray(batch.vectors, dtype="<f4").data)
                columns = zip(*batch.rows, strict=True)
                rows.write_table(arrow.table([list(column) for column in columns], schema=schema))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("exporting an index needs pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
