"""Which index is searched when none is named."""

from pathlib import Path

import pytest

from salm.cli.locate import demo_index, find_index
from salm.errors import ConfigError
from tests.cli.commands import Run, assert_mistake


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder without an index, and an empty cache folder."""
    monkeypatch.delenv("SALM_INDEX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_order(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"salm index DIR --out salm\.index .*salm demo"):
        find_index(None)
    demo_index().mkdir(parents=True)
    assert find_index(None)[0] == demo_index()
    assert demo_index().is_relative_to(nowhere / "cache")
    Path("salm.index").mkdir()
    assert find_index(None)[0] == Path("salm.index")
    monkeypatch.setenv("SALM_INDEX", "/archive/all.index")
    assert find_index(None) == (Path("/archive/all.index"), "$SALM_INDEX")
    assert find_index(Path("given"))[0] == Path("given")


def test_without_any_index_the_next_step_is_told(run: Run, tmp_path: Path) -> None:
    result = run("salm-retrieve", "dog", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert_mistake(result, "salm index DIR --out", "salm demo")


@pytest.mark.parametrize("given", ["missing.index", "file.index", "folder.index"])
def test_what_is_no_index_is_refused(given: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file.index").write_text("no index")
    (tmp_path / "folder.index").mkdir()
    assert_mistake(run("salm-retrieve", "dog", "--index", given, cwd=tmp_path), given)
