"""README's Python runs and prints what README says; its commands and options exist."""

import contextlib
import io
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from salm.weights.registry import bundled_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d*)?", text)]


@pytest.mark.skipif("salm-small" not in bundled_models(), reason="needs the bundled model")
def test_python_blocks_print_what_follows_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    checked = 0
    for (kind, code), (_, expected) in pairwise(BLOCKS):
        if kind != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        assert re.sub(r"[-\d.\s]+", " ", printed.getvalue()) == re.sub(r"[-\d.\s]+", " ", expected)
        # Another processor rounds otherwise in the last digit shown.
        np.testing.assert_allclose(numbers(printed.getvalue()), numbers(expected), atol=1.01e-2)
        checked += 1
    assert checked == 2


def test_commands_and_options_exist():
    lines = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines() if line.startswith("salm")]
    assert len(lines) >= 8
    commands = {}
    for line in lines:
        words = line.split("#")[0].split()
        is_group = words[1] in ("eval", "prepare")
        program = ["retrieve"] if words[0] == "salm-retrieve" else words[1 : 3 if is_group else 2]
        options = (word for word in words if re.fullmatch(r"--?[a-z][\w-]*", word))
        commands.setdefault(tuple(program), set()).update(options)
    for program, options in commands.items():
        if program == ("train",):
            continue
        call = [sys.executable, "-m", "salm", *program, "--help"]
        shown = subprocess.run(call, capture_output=True, text=True, check=True)
        assert all(option in shown.stdout for option in options), (program, options)


def test_configurations_name_the_command_that_uses_them():
    configs = sorted((ROOT / "configs").glob("*.yaml"))
    assert configs
    for path in configs:
        assert path.read_text().startswith("# salm train "), path.name
        assert path.name in path.read_text().splitlines()[0]
