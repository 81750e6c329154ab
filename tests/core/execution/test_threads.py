"""Work shared among threads: all of it is done, in whatever order, and nobody waits for himself."""

import os
import threading
import time

import pytest

from bilevelrl.execution import threads


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_part_is_done_once_and_answers_keep_their_order(count):
    """Parts of different lengths, more than there are threads or fewer."""
    done = []

    def work(part):
        time.sleep(0.001 * (part % 3))
        done.append(part)
        return -part

    assert threads.over_parts(work, range(7), count) == [-part for part in range(7)]
    assert sorted(done) == list(range(7))


def test_no_more_threads_than_asked_for():
    seen = set()

    def work(part):
        seen.add(threading.get_ident())
        time.sleep(0.002)

    threads.over_parts(work, range(12), 2)
    assert len(seen) <= 2
    threads.over_parts(work, [0], 2)
    assert threading.get_ident() in seen


def test_work_that_shares_work_does_not_wait_for_its_own_threads():
    """As a sampler's batch inside of another's: the inner one is done by whoever has it."""

    def outer(part):
        return sum(threads.over_parts(lambda inner: inner * part, range(5), 4))

    assert threads.over_parts(outer, range(6), 3) == [10 * part for part in range(6)]


def test_an_error_comes_back_once_all_have_stopped():
    running = []

    def work(part):
        running.append(part)
        time.sleep(0.005)
        running.remove(part)
        if part in (0, 1):
            raise ZeroDivisionError(part)

    with pytest.raises(ZeroDivisionError):
        threads.over_parts(work, range(4), 2)
    assert running == []


@pytest.mark.parametrize(("count", "size"), [(1, 5), (2, 5), (3, 2), (4, 1000), (2, 0)])
def test_ranges_cover_all(monkeypatch, count, size):
    monkeypatch.setattr(threads, "processors", lambda: count)
    covered = []
    threads.over_ranges(lambda first, last: covered.extend(range(first, last)), size)
    assert sorted(covered) == list(range(size))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a later Python warns of forks where threads are
def test_a_fork_has_threads_of_its_own():
    """A child process has none of its parent's, and must not wait for them."""
    assert threads.over_parts(abs, [-1, -2], 2) == [1, 2]
    child = os.fork()
    if not child:
        os._exit(0 if threads.over_parts(abs, [-1, -2], 2) == [1, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
