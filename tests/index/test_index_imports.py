"""`salm_index` stands on its own: numpy, faiss and the standard library; pyarrow to export."""

import ast
import subprocess
import sys
from pathlib import Path

import salm_index

PACKAGE = Path(salm_index.__file__).parent


def test_it_imports_numpy_faiss_and_the_standard_library_only() -> None:
    imported: dict[str, set[str]] = {}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module
                names = [node.module]
            for name in names:
                imported.setdefault(name.split(".")[0], set()).add(path.name)
    assert {"numpy", "faiss", "salm_index"} <= imported.keys()
    assert imported.keys() - sys.stdlib_module_names <= {"numpy", "faiss", "pyarrow", "salm_index"}
    assert imported["faiss"] == {"vectors.py"}
    assert imported["pyarrow"] == {"export.py"}


def test_importing_it_is_cheap() -> None:
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import salm_index; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "salm_index.index" in modules
    assert {"faiss", "pyarrow", "torch", "salm"}.isdisjoint(modules)


def test_the_public_names_are_there() -> None:
    assert salm_index.__all__ == sorted(salm_index.__all__)
    for name in salm_index.__all__:
        assert getattr(salm_index, name).__doc__
