"""Compiled code against `Projection`, which is torch's."""

import pytest
import torch

from salm.errors import DependencyError
from salm.models.compiled_projection import CompiledProjection
from salm.models.salm import Projection
from salm.models.tuned import tuned_projection


@pytest.fixture
def projection():
    torch.manual_seed(0)
    return Projection(70, 64, 96).eval()


@pytest.fixture
def compiled(projection):
    try:
        return CompiledProjection(projection, "the test")
    except DependencyError as error:
        pytest.skip(str(error))


def vectors(count, width=70):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def test_vectors_are_the_same(projection, compiled):
    with torch.inference_mode():
        expected = projection(vectors(5))
        torch.testing.assert_close(compiled(vectors(5)), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(compiled(vectors(5).T.contiguous().T), expected, atol=1e-6, rtol=1e-5)
    assert expected.std() > 0.1


def test_a_vector_is_the_same_alone_and_in_any_batch(compiled):
    alone = torch.cat([compiled(vector[None]) for vector in vectors(5)])
    assert torch.equal(compiled(vectors(5)), alone)


def test_what_is_no_number_stays_none(compiled):
    broken = vectors(2)
    broken[1, 3] = torch.nan
    assert compiled(broken).isnan().any(dim=1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("sizes", "precision", "expected"),
    [((70, 64, 96), "int16", True), ((70, 64, 96), "bfloat16", False), ((70, 48, 96), "int16", False)],
    ids=["fits", "no integers", "other widths"],
)
def test_tuned_where_it_fits(compiled, sizes, precision, expected):
    projection = Projection(*sizes).eval()
    tuned = tuned_projection(projection, precision)
    assert isinstance(tuned, CompiledProjection) == expected
    with torch.inference_mode():
        torch.testing.assert_close(tuned(vectors(2)), projection(vectors(2)), atol=1e-6, rtol=1e-5)
