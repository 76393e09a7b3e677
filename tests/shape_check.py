"""The type checker of the test run: `--jaxtyping-packages=salm,shape_check.check` in pyproject.toml.

Only functions with shapes in their annotations are checked. Everything else is mypy's, and tests of wrong input must
reach the library's own messages.
"""

import typing
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

CONF = BeartypeConf(is_pep484_tower=True)  # an int is a fine float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and result checked if a shape is among their annotations."""
    annotations = getattr(function, "__annotations__", {})
    return beartype(conf=CONF)(function) if any(map(_has_shape, annotations.values())) else function


def _has_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(annotation)))
