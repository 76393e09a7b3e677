"""Where things are when the user does not say: the cache folder, the demo, the index to search."""

import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from salm.errors import ConfigError

if TYPE_CHECKING:
    from salm_index import MilvusIndex

INDEX_VARIABLE = "SALM_INDEX"
LOCAL_INDEX = Path("salm.index")
STORE_FORM = "milvus:URI[#COLLECTION], such as milvus:archive.db or milvus:http://localhost:19530#night"
TOKEN_VARIABLE = "SALM_MILVUS_TOKEN"
"""Holds "user:password" or an API key of a Milvus server: not on the command line, where others could read it."""


@dataclass(frozen=True)
class Store:
    """An index that is no folder.

    Args:
        uri: of a Milvus server, or a file of milvus-lite.
        collection: its name there.
    """

    uri: str
    collection: str

    def __str__(self) -> str:
        return f"milvus:{self.uri}#{self.collection}"

    def open(self, model: str | None = None) -> "MilvusIndex":
        """Open the index, as `MilvusIndex.open`."""
        from salm_index import MilvusIndex

        _quiet_milvus()
        return MilvusIndex.open(self.uri, model, collection=self.collection, token=os.environ.get(TOKEN_VARIABLE, ""))

    def create(
        self, dimension: int, *, model: str, kind: str | None = None, recall: float | None = None
    ) -> "MilvusIndex":
        """Make the index, as `MilvusIndex.create`."""
        from salm_index import MilvusIndex

        _quiet_milvus()
        return MilvusIndex.create(
            self.uri,
            dimension,
            model=model,
            kind="auto" if kind is None else kind,
            recall=0.99 if recall is None else recall,
            collection=self.collection,
            token=os.environ.get(TOKEN_VARIABLE, ""),
        )


def parse_store(text: str) -> Store:
    """Read what a user gives as --store.

    Raises:
        ConfigError: it does not have `STORE_FORM`.
    """
    kind, _, rest = text.partition(":")
    uri, _, collection = rest.partition("#")
    if kind != "milvus" or not uri:
        raise ConfigError(f"--store: expected {STORE_FORM}, got {text!r}")
    if "://" not in uri and not uri.endswith(".db"):
        raise ConfigError(f"--store: expected the address of a server or a file that ends in .db, got {uri!r}")
    return Store(uri, collection or "salm")


def _quiet_milvus() -> None:
    # They print tracebacks of what is then told in one line; pymilvus sets its levels when it is imported.
    with suppress(ImportError):
        import_module("pymilvus")
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cache_folder() -> Path:
    """The user's cache folder of SALM; it need not exist."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "salm"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "salm"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "salm" / "cache"
    return Path.home() / ".cache" / "salm"


def demo_folder() -> Path:
    """Where `salm demo` keeps its scenes and its index."""
    return cache_folder() / "demo"


def demo_index() -> Path:
    """The index that `salm demo` makes."""
    return demo_folder() / "demo.index"


def find_index(given: Path | None) -> tuple[Path, str]:
    """The index to search, and where it came from: as given, $SALM_INDEX, ./salm.index, or the demo's.

    Raises:
        ConfigError: there is none of these; the message says how to make one.
    """
    if given is not None:
        return given, "--index"
    if os.environ.get(INDEX_VARIABLE):
        return Path(os.environ[INDEX_VARIABLE]), f"${INDEX_VARIABLE}"
    if LOCAL_INDEX.is_dir():
        return LOCAL_INDEX, "in this folder"
    if demo_index().is_dir():
        return demo_index(), "made by salm demo"
    raise ConfigError(
        f"no index: neither --index nor ${INDEX_VARIABLE} is given, and there is no ./{LOCAL_INDEX}; make one with: "
        f"salm index DIR --out {LOCAL_INDEX} (or try: salm demo)"
    )
