"""Compiling on first use: where the library lies, and what is said when it cannot be had."""

import os
import platform
import shutil
import subprocess

import pytest
import torch

from salm import compiled
from salm.errors import DependencyError
from salm.models.precision import find_precision


def compiled_library(source):
    return compiled.compiled_library(source, ("-O1",), "the test")


TWICE = "int twice(int number) { return 2 * number; }\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "twice.c"
    path.write_text(TWICE)
    compiled.compiled_library.cache_clear()
    yield path
    compiled.compiled_library.cache_clear()


@pytest.fixture
def compiler(source):
    try:
        compiled_library(source)
    except DependencyError as error:
        pytest.skip(str(error))
    compiled.compiled_library.cache_clear()


FLAGS = {
    "arrival.c": [compiled.AVX2, compiled.AVX512_VNNI],
    "feature_maps.c": [compiled.AVX2, compiled.AVX512_VNNI],
    "image.c": [compiled.AVX2, compiled.AVX512_VNNI],
    "integer_convolution.c": [(*flags, "-DBITS=8") for flags in (compiled.AVX2, compiled.AVX512_VNNI)],
    "projection.c": [compiled.AVX2, compiled.AVX512_VNNI],
    "swin_integer.c": [
        (*compiled.AVX2, "-DBITS=16"),
        *((*flags, "-DBITS=8") for flags in (compiled.AVX2, compiled.AVX512_VNNI)),
    ],
}
"""Of every source of the package; tests that run them skip where they cannot be compiled."""


def test_every_source_compiles(tmp_path):
    compiler = next(filter(None, map(shutil.which, compiled.COMPILERS)), None)
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("there is no C compiler for x86-64 here")
    sources = {path.name: path for path in compiled.HEADERS.rglob("*.c")}
    assert sources.keys() == FLAGS.keys()
    for name, variants in FLAGS.items():
        for flags in variants:
            command = [compiler, *compiled.FLAGS, *flags, str(sources[name]), "-o", str(tmp_path / name), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{name} with {flags}: {done.stderr}"


def test_library_is_made_once_and_anew_for_another_source(compiler, source, monkeypatch):
    folder = compiled.cache_folder()
    (first,) = folder.iterdir()
    monkeypatch.setattr(compiled, "_compile", None)  # nothing may be compiled
    assert compiled_library(source).twice(21) == 42
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    compiled.compiled_library.cache_clear()
    source.write_text(TWICE.replace("2 *", "3 *"))
    assert compiled_library(source).twice(21) == 63
    assert len(list(folder.iterdir())) == 2 and first.is_file()


def test_source_that_cannot_be_compiled_is_named_and_leaves_nothing(compiler, source):
    kept = sorted(compiled.cache_folder().iterdir())
    source.write_text("int twice(int number) { return nowhere; }\n")
    with pytest.raises(DependencyError, match=r"twice\.c could not be compiled by .*nowhere.*environment variable CC"):
        compiled_library(source)
    assert sorted(compiled.cache_folder().iterdir()) == kept


def test_folder_that_cannot_be_written_is_named(compiler, source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DependencyError, match=r"file/salm: the library .* could not be kept there .*XDG_CACHE_HOME"):
        compiled_library(source)


def test_a_machine_without_a_compiler_says_what_to_install_and_auto_does_without(source, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(
        DependencyError, match=r"the test compiles twice\.c on its first use.*gcc and libc6-dev.*'float32'"
    ):
        compiled_library(source)
    monkeypatch.setattr("salm.models.precision.has_bf16_units", lambda: False)
    assert find_precision("auto", torch.device("cpu")) == "float32"


def test_cache_lies_in_the_home_folder_unless_told(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compiled.cache_folder() == compiled.Path(os.path.expanduser("~")) / ".cache" / "salm"
