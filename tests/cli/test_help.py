"""Help, versions, usage errors: quick, and nothing heavy is imported for them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import ROOT, Run, assert_mistake

HEAVY = ("torch", "transformers", "faiss", "soundfile", "numpy", "lightning", "rich")
COMMANDS = (
    "index", "retrieve", "stats", "verify", "compact", "merge", "export", "direction", "doctor", "simulate", "prepare",
    "captions", "pack", "convert", "demo", "train", "eval",
)  # fmt: skip


@pytest.mark.parametrize("module", ["salm.cli.app", "salm.cli.retrieve"])
def test_help_imports_nothing_heavy_and_is_quick(module: str, environment: dict[str, str]) -> None:
    code = (
        f"import sys, time; from {module} import main\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n    main()\n"
        f"finally:\n    print(sorted(set({HEAVY!r}) & set(sys.modules)), time.process_time() < 1.0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


def test_every_command_is_listed(run: Run) -> None:
    listed = run("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in listed


@pytest.mark.parametrize("command", ["index", "retrieve", "direction", "doctor", "simulate", "demo"])
def test_help_of_a_command_ends_with_an_example(command: str, run: Run) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert result.stdout.rstrip().splitlines()[-1].strip().startswith(f"Example: salm {command}")


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith("salm 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], ["bogus", "salm --help"]),
        (["index"], ["DIR", "salm index --help"]),
        (["retrieve", "dog", "-k", "0"], ["-k", "greater than or equal to 1"]),
        (["salm-retrieve", "dog", "barking"], ["barking", "salm-retrieve --help"]),
        (["train", "bogus"], ["bogus", "fit"]),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], words: list[str], run: Run) -> None:
    assert_mistake(run(*arguments), *words)


def test_a_missing_extra_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name in ('lightning', 'scipy') else real(name, *rest)\n"
        "sys.argv = ['salm', *sys.argv[1:]]\n"
        "from salm.cli.app import main; main()"
    )
    for arguments, extra in ((["train", "fit"], "salm[train]"), (["demo"], "salm[scenes]")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f'pip install "{extra}"' in done.stderr


def test_readers_of_a_pipe_may_stop(environment: dict[str, str]) -> None:
    command = f"set -o pipefail; {sys.executable} -m salm --help | true"
    done = subprocess.run(["bash", "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
