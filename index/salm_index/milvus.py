"""`MilvusIndex`: the interface of `Index` on a Milvus server, or on a file of milvus-lite.

    index = MilvusIndex.create("archive.db", dimension=512, model="salm-small:1f3c")        # milvus-lite
    index = MilvusIndex.open("http://milvus:19530", collection="night", token="user:password")

Rows, filters, hits and errors are those of `Index`. A filtered search is exact: of kind "flat" by its index (FLAT), of
kind "ivf" because it reads all lists (IVF_FLAT keeps whole vectors). What a local index promises and this one does not:

- No generations. A reader sees a write while it goes on: `replace` writes the new windows first and then takes the old
  ones away, so a recording never lacks windows, but for a moment old and new ones are found together. `add` and
  `replace` are not all or nothing: a writer that dies leaves some of its windows. Its recordings are noted before it
  starts; until they are replaced, `paths` says that their content is not known, and `salm index` encodes them again.
- No lock. One writer at a time is the caller's duty; milvus-lite lets only one process open its file.
- `compact` takes the collection from its searchers while the index is exchanged.
- Durability, checksums and backups are the server's. milvus-lite does not sync its log to disk with each write.
- Scores are Milvus' float32 sums; equal ones come in the order of path and time, and may be cut off at k in any order.

Reads have the consistency level "Strong": what was acknowledged before a search began is found by it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from salm_index import milvus_search
from salm_index.errors import (
    IndexExistsError,
    ModelMismatchError,
    RowError,
    SalmIndexError,
)
from salm_index.inputs import (
    check_dimension,
    check_kind,
    check_model_name,
    check_new,
    check_paths,
    check_recall,
    check_rows,
    check_vectors,
)
from salm_index.lists import wants_lists
from salm_index.milvus_collection import (
    SCHEMA_VERSION,
    MilvusCollections,
    check_collection,
    path_digest,
    read_header,
    window_id,
)
from salm_index.milvus_search import FLAT_SEARCH
from salm_index.milvus_stats import MilvusStats
from salm_index.rows import Row, Window
from salm_index.search import Hit
from salm_index.searchable import Searchable

DEFAULT_COLLECTION = "salm"


class MilvusIndex(Searchable):
    """An inner-product index in a Milvus collection. `MilvusIndex.create` makes one, `MilvusIndex.open` opens one.

    Args of both:
        uri: "http://host:19530", or a file of milvus-lite (it ends in .db).
        collection: letters, digits and underscores; the index takes this collection and NAME_about.
        token: "user:password" or an API key.

    Raises (all methods):
        MissingDependencyError: pymilvus is not installed.
        IndexAccessError: the server is out of reach, or refuses; IndexLockedError: milvus-lite's file is in use.
    """

    def __init__(self, collections: MilvusCollections, about: Mapping[str, Any]) -> None:
        self._collections: MilvusCollections | None = collections
        self._about = dict(about)

    @classmethod
    def create(
        cls,
        uri: str,
        dimension: int = 512,
        *,
        model: str,
        kind: str = "auto",
        recall: float = 0.99,
        collection: str = DEFAULT_COLLECTION,
        token: str = "",
    ) -> "MilvusIndex":
        """Make an empty index and open it.

        Args:
            dimension, model, kind, recall: as in `Index.create`. Kind and lists are settled by `compact` alone; until
                then every search is exact.

        Raises:
            IndexExistsError: there is one.
            VectorError, ModelMismatchError, QueryError: `dimension`, `model`, or another value is invalid.
        """
        about = {
            "schema_version": SCHEMA_VERSION,
            "model": check_model_name(model),
            "dimension": check_dimension(dimension),
            "kind": check_kind(kind),
            "recall": check_recall(recall),
            "search": FLAT_SEARCH,
        }
        collections = MilvusCollections(uri, check_collection(collection), token)
        try:
            if collections.exist():
                raise IndexExistsError(f"{uri}: has an index {collection!r} already; open it, or choose another name")
            collections.create(dimension, about)
        except BaseException:
            collections.close()
            raise
        return cls(collections, about)

    @classmethod
    def open(
        cls, uri: str, model: str | None = None, *, collection: str = DEFAULT_COLLECTION, token: str = ""
    ) -> "MilvusIndex":
        """Open an index.

        Args:
            model: the model whose vectors will be searched or added; none skips the check.

        Raises:
            IndexNotFoundError: there is none of this name.
            ModelMismatchError: it holds vectors of another model.
            SchemaVersionError, IndexCorruptError: it was written by another version of this package, or by hand.
        """
        collections = MilvusCollections(uri, check_collection(collection), token)
        try:
            collections.open()
            index = cls(collections, read_header(collections))
            index._check_model(model)
        except BaseException:
            collections.close()
            raise
        return index

    def close(self) -> None:
        """Disconnect."""
        if self._collections is not None:
            self._collections.close()
            self._collections = None

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        if self._collections is None:
            return f"{type(self).__name__}(closed)"
        return f"{type(self).__name__}({self.path!r}, {self.kind}, model={self.model!r})"

    @property
    def path(self) -> str:
        """Address and collection, for messages."""
        return f"{self._open.uri}#{self._open.name}"

    @property
    def model(self) -> str:
        return str(self._about["model"])

    @property
    def dimension(self) -> int:
        return int(self._about["dimension"])

    @property
    def kind(self) -> str:
        return str(self._about["search"]["kind"])

    def add(self, vectors: ArrayLike, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add windows, as in `Index.add`, though not all or nothing.

        Raises:
            VectorError, RowError: a vector or row is invalid, or its window is in the index already; nothing is added.
        """
        vectors, checked = self._checked(vectors, rows)
        known = list(self._open.of_paths({row.path for row in checked}))
        check_new(checked, (_window(row) for _, row in known))
        with self._open.journal({row.path for row in checked}):
            self._open.write(vectors, checked)

    def remove(self, paths: str | Iterable[str]) -> int:
        """Remove all windows of these recordings; returns how many there were."""
        paths = check_paths(paths)
        ids = [found for found, _ in self._open.of_paths(paths)]
        self._open.delete(ids)
        self._open.finish({path_digest(path) for path in paths})
        return len(ids)

    def replace(self, paths: str | Iterable[str], vectors: ArrayLike, rows: Sequence[Mapping[str, Any]]) -> int:
        """Put new windows in place of all windows of these recordings, as in `Index.replace`.

        Returns:
            The number of windows that were there.

        Raises:
            As in `add`; RowError as well for a row of another path.
        """
        paths = check_paths(paths)
        vectors, checked = self._checked(vectors, rows)
        for number, row in enumerate(checked):
            if row.path not in paths:
                raise RowError(f"row {number} ({row.describe()}): its path is not among the replaced paths; use add")
        old = [found for found, _ in self._open.of_paths(paths)]
        with self._open.journal(paths):
            self._open.write(vectors, checked)
            new = {window_id(row) for row in checked}
            self._open.delete([found for found in old if found not in new])
        self._open.finish({path_digest(path) for path in paths})
        return len(old)

    def paths(self) -> dict[str, str | None]:
        """Content hash of each recording, in the order of the paths; None as well where a writer did not finish."""
        unfinished = self._open.unfinished()
        hashes = self._open.content_hashes()
        return {path: None if path_digest(path) in unfinished else value for path, value in hashes.items()}

    def search_many(
        self,
        queries: ArrayLike,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        self._check_model(model)
        vectors = check_vectors(queries, self.dimension, "query")
        return milvus_search.search(self._open, self._about["search"], vectors, k, where, exact)

    def compact(self, *, kind: str | None = None, recall: float | None = None) -> bool:
        """Settle how the index is searched: choose the kind, have Milvus build and attach it, and measure its recall.

        Args:
            kind, recall: change these, as in `create`; none leaves them.

        Returns:
            Whether there was anything to do: a change of kind or recall, or a tenth more or fewer windows than when
            the lists were made.
        """
        wanted: dict[str, Any] = {
            "kind": self._about["kind"] if kind is None else check_kind(kind),
            "recall": self._about["recall"] if recall is None else check_recall(recall),
        }
        count, current = len(self), self._about["search"]
        has_lists = current["kind"] == "ivf"
        needs_lists = wants_lists(wanted["kind"], count)
        is_stale = has_lists and abs(count - current["num_windows"]) > 0.1 * current["num_windows"]
        changed = any(self._about[name] != value for name, value in wanted.items())
        is_other = is_stale or wanted["recall"] != self._about["recall"]
        if needs_lists != has_lists or (needs_lists and is_other):
            # Exact until the lists are attached and measured, whatever happens in between.
            self._set_about(wanted | {"search": FLAT_SEARCH})
            self._set_about({"search": milvus_search.attach(self._open, count if needs_lists else 0, wanted["recall"])})
            return True
        if changed:
            self._set_about(wanted)
        return changed

    def stats(self) -> MilvusStats:
        """What the index is, in numbers."""
        search = self._about["search"]
        return MilvusStats(
            uri=self._open.uri,
            collection=self._open.name,
            model=self.model,
            dimension=self.dimension,
            kind=search["kind"],
            wanted_kind=self._about["kind"],
            wanted_recall=self._about["recall"],
            num_windows=len(self),
            num_lists=search["num_lists"],
            num_probes=search["num_probes"],
            measured_recall=search["recall"],
            measured_windows=search["num_windows"],
        )

    def refresh(self) -> bool:
        """Take over how another process has settled the search; windows need no refresh. Returns whether it changed."""
        about = read_header(self._open)
        changed, self._about = about != self._about, about
        return changed

    @property
    def _open(self) -> MilvusCollections:
        if self._collections is None:
            raise SalmIndexError("this index is closed; open it again with MilvusIndex.open")
        return self._collections

    def _set_about(self, values: Mapping[str, Any]) -> None:
        self._about |= values
        self._open.write_about("index", self._about)

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.model:
            raise ModelMismatchError(
                f"{self.path}: holds vectors of model {self.model!r}, got vectors of model {model!r}; "
                f"use {self.model!r}, or index the recordings with {model!r} into another collection"
            )

    def _checked(self, vectors: ArrayLike, rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float32], list[Row]]:
        array = check_vectors(vectors, self.dimension, "vectors")
        return array, check_rows(rows, len(array))


def _window(row: Row) -> Window:
    return Window(0, row.path, row.start_s, row.end_s, row.content_hash)
