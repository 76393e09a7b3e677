"""The functions of `integer_vectors.h`, called through a source of this test, within the errors that it states."""

import ctypes
import math

import pytest
import torch
from torch.nn import functional

from salm.compiled import AVX512_VNNI, compiled_library
from salm.errors import DependencyError
from salm.models.integer import SOURCE, check_processor, integer_flags

CALLS = """
#include "{header}"
void gelus(const float *in, float *out, int64_t count) {{
    for (int64_t i = 0; i < count; i += WIDE_LANES) WIDE(storeu_ps)(out + i, gelu(WIDE(loadu_ps)(in + i)));
}}
void powers(const float *in, int32_t *out, int64_t count) {{
    for (int64_t i = 0; i < count; i += WIDE_LANES) {{
        Whole power = scaled_exp2(1e8f, WIDE(loadu_ps)(in + i));
        memcpy(out + i, &power, sizeof power);
    }}
}}
"""


@pytest.fixture(params=[8, 16])
def bits(request):
    return request.param


def coarse(bits: int) -> bool:
    """Whether the functions are those of AVX-512."""
    return set(AVX512_VNNI) <= set(integer_flags(bits))


@pytest.fixture
def library(bits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "calls.c"
    source.write_text("#include <string.h>\n" + CALLS.format(header=SOURCE.with_name("integer_vectors.h")))
    try:
        check_processor(bits)
        return compiled_library(source, integer_flags(bits), "the test")
    except DependencyError as error:
        pytest.skip(str(error))


def call(function, numbers, dtype):
    out = torch.empty(len(numbers), dtype=dtype)
    function(*(ctypes.c_void_p(part.data_ptr()) for part in (numbers, out)), ctypes.c_int64(len(numbers)))
    return out


def test_gelu(library, bits):
    numbers = torch.cat([torch.linspace(-6, 6, 120_000), torch.tensor(8 * [-1e9, 1e9, -0.0, 40.0])])
    error = call(library.gelus, numbers, torch.float32).double() - functional.gelu(numbers.double())
    bound = 7.8e-4 if coarse(bits) else 1e-4
    assert error[:120_000].abs().max() <= bound
    assert (error[120_000:] / numbers[120_000:].abs().clamp_min(1)).abs().max() <= bound
    assert call(library.gelus, torch.full((16,), math.nan), torch.float32).isnan().all()


def test_powers_of_two(library, bits):
    numbers = -torch.linspace(0, 20, 32_000)
    exact = 1e8 * numbers.double().exp2()
    error = (call(library.powers, numbers, torch.int32) - exact).abs() - 0.5  # without the rounding to integers
    assert (error / exact).max() <= (7.6e-5 if coarse(bits) else 4e-7)
    far = torch.tensor(8 * [-90.0, -1e3, -1e9, -math.inf])
    assert call(library.powers, far, torch.int32).eq(0).all()
