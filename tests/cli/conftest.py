"""Commands as real processes, a random model, good and bad recordings."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.commands import RATE, ROOT, Result, Run, save_tiny_model, write_recording


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of every command: this source tree, an empty cache folder, no settings of the developer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SALM_", "XDG_", "PYTEST_"))}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "index")]),
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Run:
    """`run("index", ...)` is `salm index ...`; `run("salm-retrieve", ...)` is that console script."""

    def run(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> Result:
        words = [str(argument) for argument in arguments]
        command = [sys.executable, "-m", "salm", *words]
        if words[0] == "salm-retrieve":
            command = [sys.executable, "-c", "from salm.cli.retrieve import main; main()", *words[1:]]
        done = subprocess.run(
            command, cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=300, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


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
