import subprocess
import sys

import pytest

import salm


def test_importing_salm_imports_no_torch():
    code = "import sys, salm, salm.errors, salm.geometry; sys.exit(any(m in sys.modules for m in ('torch', 'faiss')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", [name for name in salm.__all__ if name != "load"])
def test_functions_use_the_default_model(monkeypatch, name):
    calls = []

    class Recorder:
        def __getattr__(self, method):
            return lambda *arguments, **options: calls.append((method, arguments, options))

    monkeypatch.setattr(salm, "_default", Recorder)
    arguments = ("input", "west") if name == "edit_direction" else ("input",)
    getattr(salm, name)(*arguments, batch_size=3)
    assert calls == [(name, arguments, {"batch_size": 3})]
