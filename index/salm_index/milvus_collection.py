"""Two collections of a Milvus server as what `MilvusIndex` needs: windows, and a few words about them.

`NAME` has one entity per window; `NAME_about` has texts by name: the index's model and dimension, how its vectors are
searched, and which recordings are being written.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError, IndexNotFoundError, QueryError, RowError, SchemaVersionError
from salm_index.milvus_filters import EVERYTHING, MAX_FACTS, PATH_FIELD, facts_of, path_hex
from salm_index.milvus_server import METRIC, READ_AT_ONCE, STRONG, VECTOR_INDEX, MilvusServer, pieces
from salm_index.rows import COLUMNS, Row

MAX_HITS = 16384
"""Milvus' largest number of hits in one search."""

MAX_TEXT_BYTES = 65535
MAX_NAME_LETTERS = 200
SCHEMA_VERSION = 1
WRITTEN_AT_ONCE = 2000
ROW_FIELDS = (*COLUMNS, "metadata")


class Candidate(NamedTuple):
    """A window that a search found."""

    id: str
    score: float
    row: Row


class MilvusCollections(MilvusServer):
    """A connection to the two collections.

    Args:
        name: of the collection: letters, digits and underscores.
        uri, token: as in `MilvusServer`, whose errors every method may raise.
    """

    def __init__(self, uri: str, name: str, token: str) -> None:
        self.name, self.about_name = name, f"{name}_about"
        super().__init__(uri, token)

    def exist(self) -> bool:
        """Whether there are both collections."""
        with self._errors():
            return bool(self._client.has_collection(self.name) and self._client.has_collection(self.about_name))

    def create(self, dimension: int, about: Mapping[str, Any]) -> None:
        """Make both collections; what an earlier attempt left of them goes."""
        types, client = self._pymilvus.DataType, self._client
        with self._errors():
            for name in (self.about_name, self.name):
                client.drop_collection(name)
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", types.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("text", types.VARCHAR, max_length=MAX_TEXT_BYTES)
            # Milvus has no collection without vectors.
            schema.add_field("vector", types.FLOAT_VECTOR, dim=2)
            client.create_collection(self.about_name, schema=schema, consistency_level=STRONG)
            self._create_index(self.about_name, "FLAT", {})
            client.load_collection(self.about_name)
            self.write_about("index", about)
            # The windows come last: whoever sees their collection finds what it is about.
            client.create_collection(self.name, schema=self._window_schema(dimension), consistency_level=STRONG)
            self._create_index(self.name, "FLAT", {})
            self._index_text(self.name, PATH_FIELD)
            client.load_collection(self.name)

    def open(self) -> None:
        """Have the server load both collections."""
        if not self.exist():
            raise IndexNotFoundError(f"{self.uri}: has no index {self.name!r}; make one with MilvusIndex.create")
        with self._errors():
            self._client.load_collection(self.about_name)
            if VECTOR_INDEX not in self._client.list_indexes(self.name):
                # A writer died while it changed the index.
                self._create_index(self.name, "FLAT", {})
                self._index_text(self.name, PATH_FIELD)
            self._client.load_collection(self.name)

    def _window_schema(self, dimension: int) -> Any:
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=dimension)
        for field in ("path", PATH_FIELD, "metadata"):
            schema.add_field(field, types.VARCHAR, max_length=MAX_TEXT_BYTES)
        schema.add_field("content_hash", types.VARCHAR, max_length=MAX_TEXT_BYTES, nullable=True)
        for field in ("start_s", "end_s"):
            schema.add_field(field, types.DOUBLE)
        for field in ("azimuth_deg", "elevation_deg"):
            schema.add_field(field, types.DOUBLE, nullable=True)
        schema.add_field("facts", types.ARRAY, element_type=types.VARCHAR, max_length=32, max_capacity=MAX_FACTS)
        return schema

    def read_about(self) -> dict[str, Any]:
        """All texts by their names, decoded from JSON."""
        rows = self._iterate(self.about_name, EVERYTHING, ["text"])
        return {row["id"]: json.loads(row["text"]) for row in rows}

    def write_about(self, name: str, value: object) -> None:
        """Set a text, encoded as JSON."""
        entity = {"id": name, "text": json.dumps(value), "vector": [1.0, 0.0]}
        with self._errors():
            self._client.upsert(self.about_name, [entity])

    def __len__(self) -> int:
        with self._errors():
            (row,) = self._client.query(self.name, output_fields=["count(*)"], consistency_level=STRONG)
        return int(row["count(*)"])

    def rows(self, expression: str) -> Iterator[tuple[str, Row]]:
        """Ids and rows of the windows for which an expression holds."""
        for entity in self._iterate(self.name, expression or EVERYTHING, list(ROW_FIELDS)):
            yield entity["id"], _row(entity)

    def ids(self, expression: str) -> list[str]:
        """Ids of the windows for which an expression holds."""
        return [entity["id"] for entity in self._iterate(self.name, expression or EVERYTHING, ["id"])]

    def of_paths(self, paths: Iterable[str]) -> Iterator[tuple[str, Row]]:
        """Ids and rows of all windows of these paths."""
        for some in pieces([path_hex(path) for path in paths], READ_AT_ONCE):
            quoted = ", ".join(f'"{path}"' for path in some)
            yield from self.rows(f"{PATH_FIELD} in [{quoted}]")

    def content_hashes(self) -> dict[str, str | None]:
        """Content hash of each path, in the order of the paths."""
        entities = self._iterate(self.name, EVERYTHING, ["path", "content_hash"])
        return dict(sorted((entity["path"], entity["content_hash"]) for entity in entities))

    def any(self, expression: str) -> bool:
        """Whether an expression holds for any window."""
        with self._errors():
            return bool(
                self._client.query(self.name, filter=expression or EVERYTHING, limit=1, consistency_level=STRONG)
            )

    def sample(self, count: int) -> tuple[list[str], NDArray[np.float32]]:
        """Ids and vectors of some windows, shape (at most count, dimension)."""
        with self._errors():
            found = self._client.query(
                self.name, filter=EVERYTHING, limit=count, output_fields=["vector"], consistency_level=STRONG
            )
        vectors = np.array([entity["vector"] for entity in found], dtype=np.float32)
        return [str(entity["id"]) for entity in found], vectors

    def write(self, vectors: NDArray[np.float32], rows: Sequence[Row]) -> None:
        """Write windows, in place of those that are there already."""
        entities: list[dict[str, Any]] = []
        for row, facts in zip(rows, facts_of(rows), strict=True):
            texts = {"path": row.path, PATH_FIELD: path_hex(row.path), "metadata": row.metadata}
            for name, text in {**texts, "content_hash": row.content_hash or ""}.items():
                if len(text.encode()) > MAX_TEXT_BYTES:
                    raise RowError(f"{row.describe()}: {name} is longer than Milvus' {MAX_TEXT_BYTES} bytes")
            entities.append({**row._asdict(), **texts, "id": window_id(row), "facts": facts})
        with self._errors():
            for start in range(0, len(entities), WRITTEN_AT_ONCE):
                some = entities[start : start + WRITTEN_AT_ONCE]
                for entity, vector in zip(some, vectors[start : start + WRITTEN_AT_ONCE], strict=True):
                    entity["vector"] = vector.tolist()
                self._client.upsert(self.name, some)
                for entity in some:
                    del entity["vector"]

    def delete(self, ids: Sequence[str]) -> None:
        """Delete windows."""
        with self._errors():
            for some in pieces(ids, READ_AT_ONCE):
                self._client.delete(self.name, ids=some)

    @contextmanager
    def journal(self, paths: Iterable[str]) -> Iterator[None]:
        """Within it, these recordings count as unfinished, and so they do if it never ends; see `unfinished`."""
        names = []
        for some in pieces([path_digest(path) for path in paths], 1000):
            names.append(f"writing-{uuid.uuid4().hex}")
            self.write_about(names[-1], some)
        yield
        with self._errors():
            for name in names:
                self._client.delete(self.about_name, ids=[name])

    def unfinished(self) -> set[str]:
        """Digests of the recordings that someone is writing, or was when it died."""
        about = self.read_about()
        return {digest for name, digests in about.items() if name.startswith("writing-") for digest in digests}

    def finish(self, digests: set[str]) -> None:
        """Take recordings out of what earlier writers left unfinished."""
        for name, value in self.read_about().items():
            if name.startswith("writing-") and digests & set(value):
                rest = [digest for digest in value if digest not in digests]
                if rest:
                    self.write_about(name, rest)
                else:
                    with self._errors():
                        self._client.delete(self.about_name, ids=[name])

    def search(
        self, queries: NDArray[np.float32], limit: int, expression: str, num_probes: int | None
    ) -> list[list[Candidate]]:
        """The best windows for each query among those for which an expression holds.

        Args:
            queries: shape (count, dimension).
            limit: at most `MAX_HITS`.
            expression: of Milvus; empty for all windows.
            num_probes: how many inverted lists are read; None where there are none.
        """
        found = self._search(queries, limit, expression, num_probes, list(ROW_FIELDS))
        return [
            [Candidate(str(hit["id"]), float(hit["distance"]), _row(hit["entity"])) for hit in hits] for hits in found
        ]

    def search_ids(self, queries: NDArray[np.float32], limit: int, num_probes: int | None) -> list[list[str]]:
        """Ids of the best windows for each query."""
        return [[str(hit["id"]) for hit in hits] for hits in self._search(queries, limit, "", num_probes, [])]

    def _search(
        self, queries: NDArray[np.float32], limit: int, expression: str, num_probes: int | None, fields: list[str]
    ) -> Any:
        parameters: dict[str, Any] = {} if num_probes is None else {"nprobe": num_probes}
        with self._errors():
            return self._client.search(
                self.name,
                data=queries.tolist(),
                anns_field="vector",
                limit=limit,
                filter=expression,
                output_fields=fields,
                search_params={"metric_type": METRIC, "params": parameters},
                consistency_level=STRONG,
            )


def window_id(row: Row) -> str:
    """The id of a window, the same whoever writes it."""
    return hashlib.sha256(json.dumps([row.path, row.start_s, row.end_s]).encode()).hexdigest()[:32]


def path_digest(path: str) -> str:
    """A recording as it stands in the journal."""
    return hashlib.sha256(path.encode()).hexdigest()[:32]


def _row(entity: Mapping[str, Any]) -> Row:
    values: list[Any] = [entity.get(field) for field in ROW_FIELDS]
    return Row(*values)


def check_collection(name: str) -> str:
    """Return the name of a collection.

    Raises:
        QueryError: not letters, digits and underscores.
    """
    if not name.isascii() or not name.isidentifier() or len(name) > MAX_NAME_LETTERS:
        raise QueryError(f"collection: expected up to {MAX_NAME_LETTERS} letters, digits and underscores, got {name!r}")
    return name


def read_header(collections: MilvusCollections) -> dict[str, Any]:
    """What an index says of itself.

    Raises:
        IndexCorruptError, SchemaVersionError: not what this package writes.
    """
    about = collections.read_about().get("index")
    where = f"{collections.uri}: collection {collections.about_name}"
    if not isinstance(about, dict) or "schema_version" not in about:
        raise IndexCorruptError(f"{where}: does not say what index it belongs to; index the recordings again")
    if about["schema_version"] != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where}: has schema version {about['schema_version']}, this salm_index reads {SCHEMA_VERSION}; "
            "update salm, or index the recordings again"
        )
    return about
