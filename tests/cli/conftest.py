"""Commands as real processes, a random model, good and bad recordings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.commands import RATE, Run, save_tiny_model, write_recording
from tests.preloaded import Preloaded, Result, clean_environment

LIBRARIES = ("salm.embedder", "salm.cli.indexing", "salm.cli.search", "salm.scenes.dataset_writer", "faiss", "pydantic")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of every command: this source tree, an empty cache folder, no settings of the developer."""
    return clean_environment(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Iterator[Run]:
    """`run("index", ...)` is `salm index ...`; `run("salm-retrieve", ...)` is that console script."""
    with Preloaded(LIBRARIES, environment) as salm:

        def run(*words: str | Path, cwd: Path | None = None, **variables: str) -> Result:
            script = () if words[0] == "salm-retrieve" else ("salm",)
            return salm.run(*script, *words, cwd=cwd, **variables)

        yield run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Four recordings in a folder, one of them 12 s long (two windows), one in a folder below."""
    folder = tmp_path / "recordings"
    write_recording(folder / "a.flac", seed=1)
    write_recording(folder / "b.WAV", seed=2)
    write_recording(folder / "deep" / "c.ogg", seed=3)
    write_recording(folder / "long.wav", seconds=12.0, seed=4)
    (folder / "notes.txt").write_text("no recording")
    write_recording(folder / ".hidden" / "d.wav", seed=5)
    return folder


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file that cannot be indexed; each is named after what is wrong with it."""
    folder = tmp_path_factory.mktemp("bad")
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (RATE, 4)).astype(np.float32)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "not_audio.wav").write_text("this is a shopping list\n" * 100)
    soundfile.write(folder / "stereo.wav", samples[:, :2], RATE)
    soundfile.write(folder / "three.wav", samples[:, :3], RATE)
    soundfile.write(folder / "mono.wav", samples[:, 0], RATE)
    for name, value in (("nan.wav", np.nan), ("infinite.wav", np.inf)):
        broken = samples.copy()
        broken[1000, 2] = value
        soundfile.write(folder / name, broken, RATE, subtype="FLOAT")
    for name in ("cut.wav", "cut.flac"):
        soundfile.write(folder / name, samples, RATE)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "dangling.wav").symlink_to(folder / "nowhere.wav")
    return folder
