import os
import signal
import threading

import numpy as np
import pytest
import torch

from salm.embedder import load
from salm.errors import ConfigError, DependencyError
from salm.window_encoder import map_on_threads, split_for_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_items_run_on_threads_of_their_own_in_order(two_threads):
    meet = threading.Barrier(2, timeout=30)  # passed only by two at once

    def square(number):
        if number < 2:
            meet.wait()
        return number**2, torch.get_num_threads()

    assert map_on_threads(square, range(5)) == [(number**2, 1) for number in range(5)]
    assert torch.get_num_threads() == 2
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]
    assert map_on_threads(lambda number: torch.get_num_threads(), [0]) == [2]  # one item alone has all threads


def test_an_error_comes_through_and_leaves_the_threads(two_threads):
    with pytest.raises(ZeroDivisionError):
        map_on_threads(lambda number: 1 // number, [1, 0])
    assert torch.get_num_threads() == 2


def names_of_two_threads():
    meet = threading.Barrier(2, timeout=30)

    def name(_):
        meet.wait()
        return threading.current_thread().name

    return set(map_on_threads(name, range(2)))


def test_threads_stay_for_the_next_items(two_threads):
    names = names_of_two_threads()
    assert len(names) == 2 and names_of_two_threads() == names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(two_threads):
    names_of_two_threads()  # without them the child would start some
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(map_on_threads(abs, [-1, -2]) != [1, 2])
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int16"])
def test_vectors_are_those_of_float32_but_for_rounding(precision, tiny_checkpoint, make_scene):
    clips = [make_scene(3.0, 50.0 * number, number) for number in range(5)]
    exact = load(tiny_checkpoint)
    try:
        rounded = load(tiny_checkpoint, precision=precision)
    except DependencyError as error:  # a machine without AVX2, or without a C compiler
        pytest.skip(str(error))
    assert rounded.precision == precision
    for embedding in ("joint", "semantic", "spatial"):
        first, second = (
            model.encode_audio(clips, sample_rate=24_000, embedding=embedding) for model in (exact, rounded)
        )
        assert np.sum(first * second, axis=1).min() > 0.999
        assert not np.array_equal(first, second)
        again = rounded.encode_audio(clips[::-1], sample_rate=24_000, embedding=embedding, batch_size=1)
        np.testing.assert_array_equal(again[::-1], second)
    mono = [clip[:1] for clip in clips]
    first, second = (
        rounded.encode_audio(mono, sample_rate=24_000, embedding="semantic", batch_size=size) for size in (1, 5)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, rounded.encode_audio(clips, sample_rate=24_000, embedding="semantic"))
    assert exact.model_id == rounded.model_id


@pytest.mark.parametrize(
    ("threads", "count", "expected"),
    [(1, 1, 1), (1, 3, 3), (1, 5, 2), (2, 1, 1), (2, 3, 1), (2, 7, 3), (2, 8, 4), (2, 9, 2), (2, 64, 4), (16, 8, 1)],
)
def test_threads_take_as_many_clips_together_as_leave_none_of_them_idle(threads, count, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    clips = torch.arange(count)
    parts = split_for_threads(clips, together=True)
    assert {len(part) for part in parts[:-1]} <= {expected} and 1 <= len(parts[-1]) <= expected
    assert len(parts[0]) == expected and torch.equal(torch.cat(parts), clips)
    assert [part.tolist() for part in split_for_threads(clips, together=False)] == [[place] for place in range(count)]


def test_unknown_precision_is_refused(tiny_checkpoint):
    with pytest.raises(
        ConfigError, match="unknown precision 'half'; expected one of float32, bfloat16, int8, int16, auto"
    ):
        load(tiny_checkpoint, precision="half")
