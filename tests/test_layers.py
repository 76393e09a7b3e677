"""Imports point one way (README of the design: errors < geometry < ... < cli), held by walking the syntax trees."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = (
    {"salm.errors", "salm.processor", "salm.progress", "salm.results"},
    {"salm.geometry", "salm.compiled"},
    {"salm.config", "salm.manifest", "salm.metrics"},
    {"salm.audio", "salm.text"},
    {"salm.scenes", "salm.models"},
    {"salm.weights", "salm.window_encoder", "salm.prepare"},
    {"salm.data"},
    {"salm.embedder", "salm.train"},
    {"salm.evaluate", "salm.queries"},
    {"salm.cli"},
    {"salm.__main__"},
)
ROOT_PACKAGE_USERS = ("salm.cli", "salm.__main__", "salm.weights.checkpoint", "salm.evaluate.suite")
"""Who may import the package itself: the public functions, or the version."""


def unit(module: str) -> str:
    return ".".join(module.split(".")[:2])


def level(module: str) -> int:
    return next(number for number, units in enumerate(LEVELS) if unit(module) in units)


def imports(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def violations(module: str, source: str) -> list[str]:
    wrong = []
    for target in imports(source):
        top = target.split(".")[0]
        if target.startswith("."):
            wrong.append(f"{module} imports {target}: write the whole name, so that this test sees where it points")
            continue
        if module.startswith("salm_index"):
            if top in ("salm", "torch"):
                wrong.append(f"{module} imports {target}")
        elif top == "salm_index":
            if not module.startswith("salm.cli"):
                wrong.append(f"{module} imports {target}")
        elif target == "salm":
            if not module.startswith(ROOT_PACKAGE_USERS):
                wrong.append(f"{module} imports salm itself")
        elif top == "salm":
            same = unit(module) == unit(target)
            if not same and level(target) >= level(module):
                wrong.append(f"{module} imports {target}")
    return wrong


def modules() -> dict[str, str]:
    found = {}
    for base, package in ((ROOT, "salm"), (ROOT / "index", "salm_index")):
        for path in sorted((base / package).rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path.read_text()
    return found


def test_imports_point_one_way():
    seen = modules()
    assert len(seen) > 50
    assert not [line for module, source in seen.items() if module != "salm" for line in violations(module, source)]


def test_a_planted_violation_is_found():
    assert violations("salm.models.htsat", "import salm.scenes.rooms")
    assert violations("salm.scenes.rooms", "def late():\n    from salm.models.salm import SALM")
    assert violations("salm.audio.io", "from salm.evaluate import retrieval")
    assert violations("salm_index.index", "import torch")
    assert violations("salm_index.rows", "import salm.errors as errors")
    assert violations("salm.embedder", "from salm_index import Index")
    assert violations("salm.models.htsat", "from ..scenes import rooms")
    assert violations("salm.weights.convert", "import salm")
    assert not violations("salm.models.htsat", "from salm.errors import ConfigError")
