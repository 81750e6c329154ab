"""What is sent to workers: arrays as they were, each stretch of memory once, and nothing that can be computed again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
import worker_tasks as tasks
from bilevelrl.execution.pickling import dumps, loads
from bilevelrl.execution.shared_values import SharedValues
from bilevelrl.outer_loop import StepFailed
from bilevelrl.sampling.alias_tables import sampling_table
from worker_tasks import Lock


def size_of(value: Any) -> int:
    """Bytes that are sent once, or mapped, for a shared value."""
    headers, arrays = SharedValues(mapped=False).prepare([value])
    return sum(array.nbytes for array in arrays) + sum(len(header.data) for header in headers)


@pytest.mark.parametrize("size", [1, 20_000], ids=["with the task", "in a file"])
def test_arrays_keep_their_flags_and_their_order(size: int) -> None:
    """Sums of floats depend on the order in memory, compiled kernels on whether an array may be written to."""
    frozen = np.arange(6.0 * size)
    frozen.flags.writeable = False
    values = {
        "frozen": frozen,
        "fortran": np.asfortranarray(np.arange(6.0 * size).reshape(2, 3 * size)),
        "rotated": np.arange(24.0 * size).reshape(2, 3 * size, 4).transpose(2, 0, 1),
        "every other": np.arange(10.0 * size)[::2],
        "empty": np.empty((0, 3)),
        "bytes": np.arange(3 * size).astype(np.uint8),
        "one number": np.array(3.0),
    }
    expected = tasks.layout(values, 0)
    with bl.use_jobs(2):
        for there in bl.execution.parallel_map(tasks.layout, values, range(2)):
            for name, (data, order, writeable) in there.items():
                assert (data, writeable) == (expected[name][0], expected[name][2]), name
                assert not values[name].size or order == expected[name][1], name


def test_what_one_task_writes_the_caller_does_not_see() -> None:
    """The file is mapped copy-on-write: processes share its pages until one of them writes to its own copy."""
    numbers = np.zeros(100_000)
    with bl.use_jobs(2):
        found = bl.execution.parallel_map(tasks.scribbles, {"first": numbers, "second": numbers[:]}, range(4))
    assert found[0] == (0.0, True, "memmap")
    assert not numbers.any()


def test_transitions_travel_once_whatever_views_they_keep_of_themselves() -> None:
    """P is by far the largest thing there is; neither a view of it nor what is worked out from it travels beside it."""
    kernel = np.full((50, 4, 50), 0.02)
    dense = bl.mdp.DenseTransitions(kernel)
    fresh = size_of(dense)
    assert kernel.nbytes <= fresh < 1.01 * kernel.nbytes
    assert sampling_table(dense) is not None
    assert dense.absorbing is not None
    assert size_of(dense) == fresh
    copy = loads(dumps(dense, "P"))
    np.testing.assert_array_equal(sampling_table(copy).entries, sampling_table(dense).entries)
    np.testing.assert_array_equal(copy.expectation(np.arange(50.0)), dense.expectation(np.arange(50.0)))


def test_a_problem_is_sent_the_same_before_and_after_it_has_been_used() -> None:
    """A sparse table is kept in one form, whatever form it was given in."""
    rng = np.random.default_rng(0)
    states = 2000
    columns = np.array([rng.permutation(states)[:3] for _ in range(2 * states)]).ravel()
    entries = np.full(columns.size, 1 / 3), columns, np.arange(2 * states + 1) * 3
    given = scipy.sparse.csr_array(entries, shape=(2 * states, states))
    lower = bl.ParametricMDP(given, bl.parametric.StateReward(np.zeros((states, 2))), 0.9, 1.0)
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())
    fresh = size_of(problem)
    bl.value_and_gradient(problem, np.zeros(states))
    assert size_of(problem) == fresh
    copy = loads(dumps(problem, "problem"))
    assert bl.value_and_gradient(copy, np.ones(states))[0] == bl.value_and_gradient(problem, np.ones(states))[0]


def test_every_registered_problem_can_be_sent() -> None:
    """With its measures and its picture, which are functions inside functions."""
    for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.PROBLEM):
        problem = bl.problem(entry.name)
        copy = loads(dumps(problem, "problem"))
        x = problem.initial_point(bl.randomness.stream(0, "start"))
        assert copy.initial_point(bl.randomness.stream(0, "start")).tobytes() == x.tobytes(), entry.name
        assert (copy.name, copy.configuration) == (problem.name, problem.configuration)


@pytest.mark.parametrize(
    "error",
    [
        bl.InputError("a", "b", "c"),
        bl.validation.UnknownNameError("a", "b", ["bb"]),
        bl.IncompatibleError("no"),
        StepFailed(bl.Status.DIVERGED, "x", 3),
        bl.validation.WorkerLost("gone", 3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_exceptions_travel_whole(error: Any) -> None:
    copy = loads(dumps(error, "error"))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_lock_deep_inside_is_found() -> None:
    with pytest.raises(bl.InputError, match=r"^thing\['a'\]\[1\]\.lock is a lock that cannot be sent to another"):
        dumps({"a": (1, Lock())}, "thing")
