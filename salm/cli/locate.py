"""Where things are when the user does not say: the cache folder, the demo, the index to search."""

import os
import sys
from pathlib import Path

from salm.errors import ConfigError

INDEX_VARIABLE = "SALM_INDEX"
LOCAL_INDEX = Path("salm.index")


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
