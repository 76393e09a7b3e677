"""`salm index --store milvus:...` and `salm-retrieve --store`: as with a folder, in a collection of milvus-lite."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from salm_index import MilvusIndex

from salm.cli import app, retrieve
from salm.cli.indexing import update_index
from salm.cli.locate import Store, parse_store
from salm.errors import ConfigError
from tests.cli.commands import assert_mistake, write_recording
from tests.preloaded import Result

QUERY = "dog barking from the northwest"
Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("index", ...)` and `command("salm-retrieve", ...)` in this process, with fsync only noted."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.delenv("SALM_MODEL", raising=False)

    def call(*arguments: str | Path) -> Result:
        words = [str(argument) for argument in arguments]
        main = retrieve.main if words[0] == "salm-retrieve" else app.main
        monkeypatch.setattr(sys, "argv", words if words[0] == "salm-retrieve" else ["salm", *words])
        with pytest.raises(SystemExit) as ending:
            main()
        return Result(int(str(ending.value)), *capsys.readouterr())

    return call


@pytest.fixture
def store(tmp_path: Path) -> str:
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    return f"milvus:{tmp_path / 'archive.db'}#night"


def test_a_store_is_filled_brought_up_to_date_and_searched(
    command: Command, store: str, recordings: Path, tiny: Path, tmp_path: Path
) -> None:
    arguments = ("index", recordings, "--store", store, "--model", tiny)
    made = command(*arguments, "--json")
    assert made.code == 0, made
    assert (made.json["num_recordings"], made.json["num_windows"], made.json["index"]) == (4, 5, store)
    assert made.json["search"].startswith("exact (flat), collection night of ")
    uri = store.removeprefix("milvus:").removesuffix("#night")
    # Kept open as a server would be: opening the file takes longer than the commands.
    with MilvusIndex.open(uri, collection="night") as opened:
        assert len(opened) == 5
        write_recording(recordings / "a.flac", seed=11)
        (recordings / "b.WAV").unlink()
        again = command(*arguments, "--prune", "--json").json
        assert [len(again[name]) for name in ("added", "changed", "removed")] == [0, 1, 1]
        assert (again["unchanged"], again["num_recordings"]) == (2, 3)
        update_index(recordings, tmp_path / "my.index", model=str(tiny))
        for options in ((), ("--per-recording",), ("--path", "*/deep/*"), ("--azimuth", "-180:180")):
            ask = ("salm-retrieve", QUERY, "--model", tiny, "-k", "3", "--json", *options)
            found, expected = (
                command(*ask, *place).json for place in (("--store", store), ("--index", tmp_path / "my.index"))
            )
            assert len(expected) > 0
            for hit, true in zip(found, expected, strict=True):
                # One that is encoded alone has all threads: sums of floats in another order.
                for name in ("score", "azimuth_deg", "elevation_deg"):
                    assert hit.pop(name) == pytest.approx(true.pop(name), abs=1e-3 if "deg" in name else 1e-5)
                assert hit == true
        nothing = command("salm-retrieve", QUERY, "--store", store, "--model", tiny, "--path", "nowhere")
        assert (nothing.code, nothing.stdout) == (0, "")
        assert nothing.stderr == f"{store}: no window matches the filters\n"


def test_mistakes(command: Command, recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.index"
    assert_mistake(command("index", recordings, "-q"), "either --out or --store")
    assert_mistake(
        command("index", recordings, "--out", folder, "--store", "milvus:a.db", "-q"), "either --out or --store"
    )
    assert_mistake(command("salm-retrieve", QUERY, "--index", folder, "--store", "milvus:a.db"), "not both")
    assert_mistake(command("index", recordings, "--store", "qdrant:x", "-q"), "milvus:URI[#COLLECTION]", "'qdrant:x'")
    assert_mistake(command("salm-retrieve", QUERY, "--store", "milvus:"), "milvus:URI[#COLLECTION]")
    assert_mistake(command("index", recordings, "--store", "milvus:folder/a", "-q"), "ends in .db", "'folder/a'")


def test_a_store_that_is_not_there(command: Command, store: str, tiny: Path) -> None:
    missing = command("salm-retrieve", QUERY, "--store", store, "--model", tiny)
    assert_mistake(missing, "archive.db", "no index 'night'")


def test_a_missing_extra_is_named(command: Command, monkeypatch: pytest.MonkeyPatch, recordings: Path) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    for arguments in (("index", recordings, "-q"), ("salm-retrieve", QUERY)):
        assert_mistake(command(*arguments, "--store", "milvus:a.db"), 'pip install "salm[milvus]"')


def test_the_forms_of_a_store() -> None:
    assert parse_store("milvus:a.db") == Store("a.db", "salm")
    assert parse_store("milvus:http://host:19530#night") == Store("http://host:19530", "night")
    assert str(parse_store("milvus:http://host:19530")) == "milvus:http://host:19530#salm"
    with pytest.raises(ConfigError, match="--store: expected milvus:URI"):
        parse_store("a.db")


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(MilvusIndex, "open", lambda uri, model, **options: seen.append((uri, model, options)))
    monkeypatch.setenv("SALM_MILVUS_TOKEN", "user:secret")
    parse_store("milvus:http://host:1#n").open("m:1")
    assert seen == [("http://host:1", "m:1", {"collection": "n", "token": "user:secret"})]
    assert "secret" not in str(parse_store("milvus:http://host:1#n"))
