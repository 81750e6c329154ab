"""What many tasks share, as bytes: arrays as they were, each stretch of memory once, and nothing that can be redone."""

from __future__ import annotations

import mmap
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
from bilevelrl.execution.payloads import Payload, Store, read, unpack
from bilevelrl.sampling.alias_tables import sampling_table
from worker_tasks import Lock


def through_a_file(value: Any, path: Path) -> Any:
    path.write_bytes(b"".join(Payload.of(value, "value").pieces()))
    return read(str(path))


def test_arrays_keep_their_flags_their_order_and_their_alignment(tmp_path: Path) -> None:
    """Sums of floats depend on the order in memory, compiled kernels on whether an array may be written to."""
    frozen = np.arange(6.0)
    frozen.flags.writeable = False
    values = {
        "frozen": frozen,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "rotated": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        "every other": np.arange(10.0)[::2],
        "empty": np.empty((0, 3)),
        "bytes": np.arange(3, dtype=np.uint8),
        "one number": np.array(3.0),
    }
    for copy in (through_a_file(values, tmp_path / "file"), unpack(bytearray((tmp_path / "file").read_bytes()))):
        for name, value in values.items():
            assert copy[name].tobytes() == value.tobytes(), name
            assert copy[name].flags.writeable == value.flags.writeable, name
            order, expected = (np.argsort(array.strides, stable=True) for array in (copy[name], value))
            assert not value.size or order.tolist() == expected.tolist(), name
    assert through_a_file(values, tmp_path / "file")["fortran"].ctypes.data % 64 == 0


def test_what_one_process_writes_no_other_sees(tmp_path: Path) -> None:
    """The file is mapped copy-on-write: the pages are shared until somebody writes to his own."""
    first = through_a_file(np.zeros(10_000), tmp_path / "file")
    second = read(str(tmp_path / "file"))
    first[:] = 1.0
    assert not second.any()
    base: Any = second
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj, mmap.mmap)


def test_transitions_travel_once_whatever_views_they_keep_of_themselves() -> None:
    """P is by far the largest thing there is; neither a view of it nor what is worked out from it travels beside it."""
    kernel = np.full((50, 4, 50), 0.02)
    dense = bl.mdp.DenseTransitions(kernel)
    fresh = Payload.of(dense, "P")
    assert kernel.nbytes <= fresh.size < 1.01 * kernel.nbytes
    assert sampling_table(dense) is not None
    assert dense.absorbing is not None
    worked = Payload.of(dense, "P")
    assert worked.key == fresh.key
    copy = unpack(bytearray(b"".join(worked.pieces())))
    np.testing.assert_array_equal(sampling_table(copy).entries, sampling_table(dense).entries)
    np.testing.assert_array_equal(copy.expectation(np.arange(50.0)), dense.expectation(np.arange(50.0)))


def test_a_follower_s_table_travels_in_one_form_whatever_form_it_was_given_in() -> None:
    """Given with unsorted columns it is kept sorted; and a problem looks the same whether it has worked or not."""
    rng = np.random.default_rng(0)
    states = 2000
    columns = np.array([rng.permutation(states)[:3] for _ in range(2 * states)]).ravel()
    entries = np.full(columns.size, 1 / 3), columns, np.arange(2 * states + 1) * 3
    given = scipy.sparse.csr_array(entries, shape=(2 * states, states))
    lower = bl.ParametricMDP(given, bl.parametric.StateReward(np.zeros((states, 2))), 0.9, 1.0)
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())
    fresh = Payload.of(problem, "problem")
    assert sum(block.nbytes == given.data.nbytes for block in fresh.blocks) == 1
    bl.value_and_gradient(problem, np.zeros(states))
    assert Payload.of(problem, "problem").key == fresh.key
    copy = unpack(bytearray(b"".join(fresh.pieces())))
    assert bl.value_and_gradient(copy, np.ones(states))[0] == bl.value_and_gradient(problem, np.ones(states))[0]


def test_equal_keys_mean_equal_contents() -> None:
    one, same, other = (Payload.of({"a": np.array([1.0, value])}, "v") for value in (2.0, 2.0, 3.0))
    assert one.key == same.key != other.key


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: b"x"])
def test_what_is_no_payload_is_not_unpickled(damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b"".join(Payload.of(np.zeros(3), "v").pieces())
    (tmp_path / "file").write_bytes(damage(whole))
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(OSError, match=r"no payload|cut off"):
        read(str(tmp_path / "file"))


def test_a_file_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through_a_file(np.zeros(3), tmp_path / "file")
    monkeypatch.setattr(os, "getuid", lambda: (tmp_path / "file").stat().st_uid + 1)
    with pytest.raises(PermissionError):
        read(str(tmp_path / "file"))


def test_store_knows_a_value_by_its_identity_and_keeps_few() -> None:
    store = Store()
    values = [np.full(20_000, float(index)) for index in range(8)]
    try:
        kept = store.parts(values[:1])[0]
        assert store.parts(values[:1])[0] is kept
        for value in values:
            store.parts([values[0], value])
        assert len(list(store.directory.iterdir())) <= 4
        assert kept.key in store.keys
        store.renew()
        assert store.parts(values[:1])[0].path == kept.path
    finally:
        store.close()
    assert not Path(kept.path or "").exists()


def test_every_registered_problem_can_be_sent() -> None:
    """With its measures and its picture, which are functions inside functions."""
    for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.PROBLEM):
        problem = bl.problem(entry.name)
        copy = unpack(bytearray(b"".join(Payload.of(problem, "problem").pieces())))
        x = problem.initial_point(bl.randomness.stream(0, "start"))
        assert copy.initial_point(bl.randomness.stream(0, "start")).tobytes() == x.tobytes(), entry.name
        assert (copy.name, copy.configuration) == (problem.name, problem.configuration)


def test_a_lock_deep_inside_is_found() -> None:
    with pytest.raises(bl.InputError, match=r"^thing\['a'\]\[1\]\.lock is a lock that no other process can be sent"):
        Payload.of({"a": (1, Lock())}, "thing")
