"""Work ahead and behind: in order, bounded, and no error or row lost."""

import threading
import time

import pytest

from gradstore.pipelines.overlap import Behind, ahead


def test_items_come_in_order_and_at_most_so_many_ahead():
    made = []

    def items():
        for n in range(50):
            made.append(n)
            yield n

    taken = []
    for n in ahead(items(), depth=3):
        time.sleep(0.001)
        taken.append(n)
        assert len(made) - len(taken) <= 5, "the queue grew: a slow reader would fill memory"
    assert taken == list(range(50))


def test_an_error_ahead_reaches_the_reader_after_what_came_before_it():
    def items():
        yield 1
        raise ValueError("from the thread")

    reader = ahead(items())
    assert next(reader) == 1
    with pytest.raises(ValueError, match="from the thread"):
        next(reader)


def test_a_reader_that_leaves_stops_the_thread():
    def items():
        while True:
            yield 0

    reader = ahead(items())
    next(reader)
    reader.close()
    deadline = time.monotonic() + 5
    while any(t.name == "gradstore-ahead" for t in threading.enumerate()):
        assert time.monotonic() < deadline, "the thread went on without a reader"
        time.sleep(0.01)


def test_calls_are_made_in_order_and_all_are_done_at_the_end():
    done = []

    def slow(n):
        time.sleep(0.002)
        done.append(n)

    with Behind(slow, depth=2) as later:
        for n in range(20):
            later(n)
            assert n - len(done) <= 4, "the queue grew: a slow disk would fill memory"
    assert done == list(range(20))


def test_what_was_handed_over_is_done_also_when_the_caller_fails():
    done = []

    def interrupted():
        with Behind(done.append) as later:
            later(1)
            later(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1, 2]


def test_an_error_behind_is_raised_and_nothing_is_written_after_it():
    done = []

    def write(n):
        if n == 1:
            raise OSError("disk full")
        done.append(n)

    def call():
        with Behind(write) as later:
            for n in range(100):
                later(n)

    with pytest.raises(OSError, match="disk full"):
        call()
    assert done == [0]
