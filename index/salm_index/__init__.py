"""A vector index for windows of recordings: exact search with filters, durable commits, undisturbed readers.

It needs numpy, faiss and SQLite, and takes vectors of any model:

    from salm_index import Index
    index = Index.create("my.index", dimension=512, model="salm-small:1f3c")
    index.add(vectors, [{"path": "yard.wav", "start_s": 0.0, "end_s": 10.0, "azimuth_deg": 45.0}, ...])
    hits = Index.open("my.index").search(query, k=10, where={"azimuth_deg": (22.5, 67.5)})

Flow: `index` (the class) -> `inputs` (checks) -> `generations` (commits) -> `header`, `rows`, `vectors` (the files);
and `search` -> `filters`, `rows`, `vectors`.
"""

from salm_index.errors import (
    IndexAccessError,
    IndexCorruptError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    ModelMismatchError,
    QueryError,
    RowError,
    SalmIndexError,
    SchemaVersionError,
    VectorError,
)
from salm_index.index import Index
from salm_index.search import Hit

__all__ = [
    "Hit",
    "Index",
    "IndexAccessError",
    "IndexCorruptError",
    "IndexExistsError",
    "IndexLockedError",
    "IndexNotFoundError",
    "ModelMismatchError",
    "QueryError",
    "RowError",
    "SalmIndexError",
    "SchemaVersionError",
    "VectorError",
]
