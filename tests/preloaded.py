"""`salm` in processes of its own that need not load the libraries again: a process that holds them forks for each."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

TIMEOUT_S = 300

SERVER = f"""
import gc, importlib, json, os, runpy, signal, sys, traceback
for module in sys.argv[1:]:
    importlib.import_module(module)
gc.freeze()  # a child that looks through the libraries' objects would copy all their memory
for line in sys.stdin:
    child = os.fork()
    if not child:
        command, code = json.loads(line), 1
        signal.alarm({TIMEOUT_S})
        for number, name, mode in (0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY):
            os.dup2(os.open(os.path.join(command["folder"], name), mode | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(command["cwd"])
        os.environ.clear()
        os.environ.update(command["environment"])
        sys.argv = command["words"]
        try:
            if sys.argv[0] == "salm":
                runpy.run_module("salm", run_name="__main__")
            else:
                importlib.import_module("salm.cli.retrieve").main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Result(NamedTuple):
    """What a process left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Preloaded:
    """Holds libraries in memory and runs commands in copies of itself, one after the other.

    Module imports that a command would do itself go unnoticed, so tests of imports need `subprocess`. A command that
    takes longer than `TIMEOUT_S` ends with code -SIGALRM.
    """

    def __init__(self, modules: Iterable[str], environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *modules],
            env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str | Path, cwd: Path | None = None, **variables: str) -> Result:
        """`run("salm", "index", ...)` or `run("salm-retrieve", ...)`, with additional environment variables."""
        assert self._server.stdin and self._server.stdout
        with tempfile.TemporaryDirectory() as folder:
            command = {
                "words": [str(word) for word in words],
                "cwd": str(cwd or Path.cwd()),
                "environment": self.environment | variables,
                "folder": folder,
            }
            self._server.stdin.write(json.dumps(command) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return Result(code, *((Path(folder) / name).read_text() for name in ("stdout", "stderr")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()


def clean_environment(**variables: str) -> dict[str, str]:
    """Of this source tree, with one thread, no network, and no settings of the developer."""
    root = Path(__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SALM_", "XDG_", "PYTEST_"))}
    return kept | {
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "index"))),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }
