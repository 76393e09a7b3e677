"""A connection to a Milvus server, or to a file of milvus-lite. Only this module talks to pymilvus' own objects."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from salm_index.errors import IndexAccessError, IndexLockedError, MissingDependencyError, SalmIndexError

METRIC = "IP"
VECTOR_INDEX = "vector"
STRONG = "Strong"
"""Every read sees every write that was acknowledged before it, whoever wrote."""

READ_AT_ONCE = 5000
CONNECT_TIMEOUT_S = 10.0
ATTACH_TIMEOUT_S = 3600.0
POLL_S = 0.2
LITE_SUFFIX = ".db"
LITE_OPTIONS = {"grpc.keepalive_time_ms": 2**31 - 1}
"""milvus-lite hangs up on a client that asks every ten seconds whether it is there, as pymilvus does."""

_lite_users: Counter[str] = Counter()
_lite_lock = threading.Lock()


class MilvusServer:
    """A connection.

    Args:
        uri: of a server ("http://host:19530"), or a file of milvus-lite (".db").
        token: "user:password" or an API key.

    Raises (here and in every method):
        MissingDependencyError: pymilvus, or milvus-lite for a file, is not installed.
        IndexLockedError: another process has the file of milvus-lite open.
        IndexAccessError: the server is out of reach or refuses.
    """

    def __init__(self, uri: str, token: str) -> None:
        self.uri, self._is_lite = uri, uri.endswith(LITE_SUFFIX)
        self._pymilvus = _import_pymilvus()
        with self._errors():
            self._client = self._pymilvus.MilvusClient(
                uri=uri, token=token, timeout=CONNECT_TIMEOUT_S, grpc_options=LITE_OPTIONS if self._is_lite else {}
            )
        with _lite_lock:
            _lite_users[uri] += 1

    def close(self) -> None:
        """Disconnect; the last one to use a file of milvus-lite stops its server."""
        self._client.close()
        if not self._is_lite:
            return
        with _lite_lock:
            _lite_users[self.uri] -= 1
            if not _lite_users[self.uri]:
                import_module("milvus_lite.server_manager").server_manager_instance.release_server(self.uri)

    def attach(
        self, name: str, index_type: str, parameters: Mapping[str, Any], text_fields: Sequence[str] = ()
    ) -> None:
        """Index the vectors anew, and return when every searcher uses that index.

        Args:
            text_fields: are indexed as well, where they are no longer: milvus-lite drops all indexes with one.

        Raises:
            IndexAccessError: also when that takes longer than `ATTACH_TIMEOUT_S`.
        """
        with self._errors():
            self._client.flush(name)
            self._client.release_collection(name)
            self._client.drop_index(name, VECTOR_INDEX)
            self._create_index(name, index_type, parameters)
            for field in text_fields:
                self._index_text(name, field)
            deadline_s = time.monotonic() + ATTACH_TIMEOUT_S
            while not self._is_built(name, parameters):
                self._wait(deadline_s, "the index is not built")
            self._client.load_collection(name)
            while "NotLoad" in self._load_state(name) or "Loading" in self._load_state(name):
                self._wait(deadline_s, "the collection is not loaded")

    def _is_built(self, name: str, parameters: Mapping[str, Any]) -> bool:
        found = self._client.describe_index(name, VECTOR_INDEX)
        if not found or found.get("field_name", "vector") != "vector":  # milvus-lite may tell of another one
            raise IndexAccessError(f"{self.uri}: asked for an index of {name!r}, but there is none; look at the server")
        if str(found.get("state")) == "Failed":
            raise IndexAccessError(f"{self.uri}: could not index {name!r}: {found.get('index_state_fail_reason')}")
        nested = found.get("params") or {}
        got = {**found, **(json.loads(nested) if isinstance(nested, str) else nested)}
        for parameter, value in parameters.items():
            # With other lists than asked for, reading "all" of them would leave some out.
            if str(got.get(parameter)) != str(value):
                raise IndexAccessError(
                    f"{self.uri}: expected an index of {name!r} with {parameter} {value}, got {got.get(parameter)}; "
                    "this Milvus does not take the parameter"
                )
        pending, indexed, total = (
            int(found.get(f"{rows}_rows") or 0) for rows in ("pending_index", "indexed", "total")
        )
        return str(found.get("state", "Finished")) == "Finished" and not pending and indexed >= total

    def _load_state(self, name: str) -> str:
        return str(self._client.get_load_state(name)["state"])

    def _wait(self, deadline_s: float, what: str) -> None:
        if time.monotonic() > deadline_s:
            raise IndexAccessError(
                f"{self.uri}: {what} after {ATTACH_TIMEOUT_S:g} s; look at the server, and run again"
            )
        time.sleep(POLL_S)

    def _create_index(self, name: str, index_type: str, parameters: Mapping[str, Any]) -> None:
        asked = self._client.prepare_index_params()
        # Nested once more: pymilvus flattens `params`, and milvus-lite then ignores what it holds without a word.
        nested = {"params": dict(parameters)} if parameters else {}
        asked.add_index("vector", index_type=index_type, index_name=VECTOR_INDEX, metric_type=METRIC, params=nested)
        self._client.create_index(name, asked)

    def _index_text(self, name: str, field: str) -> None:
        """Have a text field indexed, so that looking for one text does not read them all."""
        if field not in self._client.list_indexes(name):
            asked = self._client.prepare_index_params()
            asked.add_index(field, index_type="INVERTED", index_name=field)
            self._client.create_index(name, asked)

    def _iterate(self, name: str, expression: str, fields: list[str]) -> Iterator[dict[str, Any]]:
        with self._errors():
            iterator = self._client.query_iterator(
                name,
                batch_size=READ_AT_ONCE,
                filter=expression,
                output_fields=list(dict.fromkeys(["id", *fields])),
                consistency_level=STRONG,
            )
            try:
                while entities := iterator.next():
                    yield from entities
            finally:
                iterator.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SalmIndexError:
            raise
        except self._pymilvus.MilvusException as error:
            message = " ".join(str(error.message).split())
            if "Open local milvus failed" in message and "not exists" not in message:
                raise IndexLockedError(
                    f"{self.uri}: cannot be opened: another process holds it, or it is no file of milvus-lite; "
                    "end that process, or run a Milvus server for several"
                ) from error
            raise IndexAccessError(
                f"{self.uri}: Milvus refuses, or is out of reach ({message}); check the address, and that it runs"
            ) from error


def pieces(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _import_pymilvus() -> Any:
    try:
        # No import statement: the package is optional, and imports pandas.
        pymilvus = import_module("pymilvus")
    except ImportError as error:
        raise MissingDependencyError('a Milvus store needs pymilvus: pip install "salm[milvus]"') from error
    # What milvus-lite cannot do yet is told at every reading of a collection, though nothing needs it.
    logging.getLogger("pymilvus.client.iterator.query_iterator").setLevel(logging.ERROR)
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    return pymilvus
