"""Precisions that the audio tower can run in, and which of them suits a machine; `salm.models.tuned` has the towers."""

from contextlib import suppress
from typing import Literal, get_args

import torch

from salm.errors import ConfigError, DependencyError
from salm.models.integer import integer_library
from salm.processor import has_amx, has_bf16_units

Precision = Literal["float32", "bfloat16", "int8", "int16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {name: torch.bfloat16 if name == "bfloat16" else torch.float32 for name in PRECISIONS}
"""Of all that is not a matrix product of integers."""
INTEGER_BITS: dict[Precision, int] = {"int8": 8, "int16": 16}
PrecisionName = Precision | Literal["auto"]
"""What users may name, see `find_precision`."""


def find_precision(name: str, device: torch.device) -> Precision:
    """The named precision; "auto" is the fastest that can be had here.

    On CPUs: bfloat16 where there is AMX, else int8, else bfloat16 where there are units for it, else float32. On GPUs:
    bfloat16 where there are units for it, else float32.

    Raises:
        ConfigError: unknown name.
    """
    if name != "auto":
        return known_precision(name, also=", auto")
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu":
        return "float32"
    if has_amx():
        return "bfloat16"
    with suppress(DependencyError):
        integer_library(INTEGER_BITS["int8"])
        return "int8"
    return "bfloat16" if has_bf16_units() else "float32"


def compiled_code_for(precision: Precision) -> str | None:
    """What compiled code is needed for with this precision, which needs a compiler in any case; None: for nothing."""
    return f"precision '{precision}'" if precision in INTEGER_BITS else None


def known_precision(name: str, also: str = "") -> Precision:
    """The precision of this name, or a `ConfigError` that lists them, and what is `also` known."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise ConfigError(f"unknown precision {name!r}; expected one of {', '.join(PRECISIONS)}{also}")
