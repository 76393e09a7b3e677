from itertools import pairwise

import pytest

from salm.train.schedule import warmup_cosine


def test_warm_up_is_linear_then_cosine_falls_to_zero():
    factors = [warmup_cosine(step, warmup_steps=10, total_steps=110) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
