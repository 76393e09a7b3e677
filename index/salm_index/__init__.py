"""A vector index for windows of recordings: search with exact filters, durable commits, undisturbed readers.

It needs numpy, faiss and SQLite, and takes vectors of any model:

    from salm_index import Index
    index = Index.create("my.index", dimension=512, model="salm-small:1f3c")
    index.add(vectors, [{"path": "yard.wav", "start_s": 0.0, "end_s": 10.0, "azimuth_deg": 45.0}, ...])
    hits = Index.open("my.index").search(query, k=10, where={"azimuth_deg": (22.5, 67.5)})

Flow of a search: `reader` -> `search` -> `filters`, `segments` -> `selections` (`rows`, `numbers`), `vectors`, `lists`.
Flow of a commit: `index` -> `inputs` (checks) -> `generations` -> `compaction` (what is written anew), `segments`,
`header` (the switch). `merge`, `export` and `stats` do what they are called.

`MilvusIndex` has the same interface on a Milvus server (pip install "salm[milvus]"); its docstring says what it lacks.
Flow: `milvus` -> `milvus_search` -> `milvus_filters`, `milvus_collection` -> `milvus_server`.
"""

from salm_index.errors import (
    IndexAccessError,
    IndexCorruptError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    MissingDependencyError,
    ModelMismatchError,
    QueryError,
    RowError,
    SalmIndexError,
    SchemaVersionError,
    VectorError,
)
from salm_index.index import Index
from salm_index.milvus import MilvusIndex
from salm_index.milvus_stats import MilvusStats
from salm_index.search import Hit
from salm_index.stats import SegmentStats, Stats

__all__ = [
    "Hit",
    "Index",
    "IndexAccessError",
    "IndexCorruptError",
    "IndexExistsError",
    "IndexLockedError",
    "IndexNotFoundError",
    "MilvusIndex",
    "MilvusStats",
    "MissingDependencyError",
    "ModelMismatchError",
    "QueryError",
    "RowError",
    "SalmIndexError",
    "SchemaVersionError",
    "SegmentStats",
    "Stats",
    "VectorError",
]
