"""What the tests of integers share."""

import pytest

from salm.errors import DependencyError
from salm.models.integer import integer_library


@pytest.fixture(params=[8, 16])
def bits(request):
    try:
        integer_library(request.param)
    except DependencyError as error:
        pytest.skip(str(error))
    return request.param
