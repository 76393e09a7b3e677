"""`Searchable`: what an index in a folder and one on Milvus have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from numpy.typing import ArrayLike

from salm_index.header import METRIC
from salm_index.inputs import check_query
from salm_index.search import Hit


class Searchable(ABC):
    """Vectors of windows of recordings that can be searched; closed at the end of a `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release what the index holds: files, memory, connections."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of windows."""

    @property
    @abstractmethod
    def model(self) -> str:
        """Name and fingerprint of the model that made the vectors."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def metric(self) -> str:
        """What a score is: "inner_product"."""
        return METRIC

    @property
    @abstractmethod
    def kind(self) -> str:
        """How it is searched now: "flat" (exact) or "ivf" (exact with a filter; its recall is in `stats`)."""

    @abstractmethod
    def paths(self) -> dict[str, str | None]:
        """Content hash of each recording in the index, in the order of the paths."""

    def search(
        self,
        query: ArrayLike,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
        *,
        exact: bool = False,
    ) -> list[Hit]:
        """The k windows that are most similar to one query. Exact under a filter, and where `kind` is "flat".

        Args:
            query: shape (dimension,) or (1, dimension).
            k: how many; fewer are returned only if fewer windows match.
            where: conditions on the windows, such as ``{"azimuth_deg": (22.5, 67.5), "path": "yard/*"}``; the forms
                are listed in `salm_index.filters`.
            model: the model that made the query; none skips the check.
            exact: compare with all windows, whatever the kind. For queries that are not of the kind of the windows,
                such as sentences: the recall of "ivf" was measured with windows (`salm_index.tuning`).

        Returns:
            Hits, best first; equal scores in the order in which the windows were added.

        Raises:
            VectorError, QueryError, ModelMismatchError: the query, `k` or `where`, or `model` does not fit.
        """
        return self.search_many(check_query(query, self.dimension), k, where, model, exact=exact)[0]

    @abstractmethod
    def search_many(
        self,
        queries: ArrayLike,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """`search` for each of several queries under one filter; the answers are the same as one by one.

        Args:
            queries: shape (count, dimension).
            k, where, model, exact: as in `search`.
        """
