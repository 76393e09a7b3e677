"""C sources of this package, compiled once on each machine and kept in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from salm.errors import DependencyError
from salm.processor import has_avx2, has_vnni

COMPILERS = ("cc", "gcc", "clang")
"""Tried in this order, after the one named by the environment variable CC."""
HEADERS = Path(__file__).parent
FLAGS = ("-O3", "-std=c11", "-fPIC", "-shared")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512_VNNI = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
"""Flags for processors with these instructions, see `salm.processor`."""


@lru_cache
def compiled_library(source: Path, flags: tuple[str, ...], needed_for: str) -> ctypes.CDLL:
    """The shared library of a C source.

    The first call on a machine takes seconds; what it makes lies in `$XDG_CACHE_HOME/salm` (`~/.cache/salm`), named by
    sources and flags, and appears there whole.

    Args:
        source: the C file; it may include the headers beside it and in `HEADERS`.
        flags: for the compiler, beside `FLAGS`: what this processor's instructions are.
        needed_for: what asks for it, for messages: "precision 'int8'".

    Raises:
        DependencyError: no C compiler, one that refuses the source, or no place for the library.
    """
    headers = [*sorted(source.parent.glob("*.h")), *sorted(HEADERS.glob("*.h"))]
    text = b"".join(path.read_bytes() for path in [source, *headers])
    digest = hashlib.sha256(text + " ".join(FLAGS + flags).encode()).hexdigest()[:16]
    library = cache_folder() / f"{source.stem}-{digest}.so"
    if not library.is_file():
        _compile(source, flags, library, needed_for)
    return ctypes.CDLL(str(library))


class Structure(ctypes.Structure):
    """A structure of a C source; tensors that it points to live as long as it does."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**{name: _address(value) for name, value in values.items()})
        self.kept = values


def _address(value: Any) -> Any:
    return value.data_ptr() if isinstance(value, torch.Tensor) else value


def fastest_vectors(needed_for: str) -> tuple[str, ...]:
    """Flags for the widest vectors that this processor has.

    Raises:
        DependencyError: it has none with AVX2.
    """
    if not has_avx2():
        raise DependencyError(
            f"{needed_for} needs an x86-64 processor with AVX2, and this one ({platform.machine()}) is none; use "
            "'float32' or 'bfloat16'"
        )
    return AVX512_VNNI if has_vnni() else AVX2


@lru_cache
def torch_threads() -> ctypes.c_void_p:
    """The function by which torch's own OpenMP runs others on its threads; nothing where torch has another way.

    Threads of Python's or of another OpenMP would find torch's still waiting for work on their cores, for milliseconds.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.cast(ctypes.CDLL(str(library)).GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):
        return ctypes.c_void_p()


def cache_folder() -> Path:
    """Where this user's compiled libraries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salm"


def _compile(source: Path, flags: tuple[str, ...], library: Path, needed_for: str) -> None:
    compiler = next(filter(None, map(shutil.which, filter(None, [os.environ.get("CC"), *COMPILERS]))), None)
    if compiler is None:
        raise DependencyError(
            f"{needed_for} compiles {source.name} on its first use, but there is no C compiler; install one (on "
            "Debian: gcc and libc6-dev), name it in the environment variable CC, or use 'float32' or 'bfloat16'"
        )
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            command = [compiler, *FLAGS, *flags, str(source), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                reason = next((line for line in lines if "error" in line), lines[0])
                raise DependencyError(
                    f"{source.name} could not be compiled by {compiler} ({reason}); name another compiler in the "
                    "environment variable CC, or use precision 'float32' or 'bfloat16'"
                )
            made.replace(library)
    except OSError as error:
        raise DependencyError(
            f"{library.parent}: the library of {needed_for} could not be kept there ({error}); name a folder that "
            "can be written in the environment variable XDG_CACHE_HOME"
        ) from error
