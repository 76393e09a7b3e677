import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import salm


def test_importing_salm_imports_no_torch():
    code = "import sys, salm, salm.errors, salm.geometry; sys.exit(any(m in sys.modules for m in ('torch', 'faiss')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", [name for name in salm.__all__ if name not in ("SALM", "load")])
def test_functions_use_the_default_model(monkeypatch, name):
    calls = []

    class Recorder:
        def __getattr__(self, method):
            return lambda *arguments, **options: calls.append((method, arguments, options))

    monkeypatch.setattr(salm, "_default", Recorder)
    arguments = ("input", "west") if name == "edit_direction" else ("input",)
    getattr(salm, name)(*arguments, batch_size=3)
    assert calls == [(name, arguments, {"batch_size": 3})]


def test_threads_share_one_default_model(monkeypatch):
    loaded = []

    def load():
        time.sleep(0.05)
        loaded.append(object())
        return loaded[-1]

    monkeypatch.setattr(salm, "load", load)
    salm._load_default.cache_clear()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(lambda _: salm._default(), range(4)))
    finally:
        salm._load_default.cache_clear()
    assert found == set(loaded)
    assert len(loaded) == 1


def test_public_names_exist():
    assert salm.__all__
    assert all(callable(getattr(salm, name)) for name in salm.__all__)
    assert salm.__version__.count(".") == 2
