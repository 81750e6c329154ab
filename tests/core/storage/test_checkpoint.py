"""Checkpoints as bytes: what goes in comes out bit for bit, and no other bytes are believed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays_of

import bilevelrl as bl
from bilevelrl.storage.archives import KINDS
from bilevelrl.storage.checkpoint import FORMAT, Checkpoint, DamagedError, can_be_saved, decode, encode, pack, unpack
from bilevelrl.storage.files import write_atomically

PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)
SAMPLED = bl.problem("gridworld-preferences")


def checkpoint_of(algorithm: bl.Algorithm, problem: bl.BilevelProblem, iterations: int = 2) -> Checkpoint:
    run = algorithm.run(problem, iterations=iterations, seed=1)
    return Checkpoint(
        first=run.first,
        last=run.last,
        history=run.history,
        best=run.best,
        settings={"iterations": iterations, "seed": 1, "tolerance": 0.0},
        tables=run.experiment().comparable(),
        versions={"bilevelrl": bl.__version__},
        status=run.status,
        stopped_by=run.stopped_by,
        seconds=run.seconds,
    )


def adam() -> bl.Algorithm:
    return attrs.evolve(bl.algorithm("m-sobirl"), upper=bl.upper_level_optimizer("adam"))


GOOD = encode(checkpoint_of(adam(), PROBLEM))


def forged(change: Any) -> bytes:
    """The good checkpoint with its JSON changed and a checksum that fits: what a stranger could send."""
    _, _, payload = GOOD.split(b"\n", 2)
    length, _, rest = payload.partition(b"\n")
    told = json.loads(rest[: int(length)])
    arrays = rest[int(length) :]
    changed = change(told, arrays)
    text = json.dumps(told).encode()
    payload = b"%d\n%s%s" % (len(text), text, arrays if changed is None else changed)
    return b"bilevelrl checkpoint %d\n%s\n%s" % (FORMAT, hashlib.sha256(payload).hexdigest().encode(), payload)


def assert_equal(one: Any, other: Any) -> None:
    """Bit for bit, with all that hangs on it but handles."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        assert one.flags.f_contiguous == other.flags.f_contiguous
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, bl.storage.History):
        assert one.lines() == other.lines()
    elif attrs.has(type(one)):
        for field in attrs.fields(type(one)):
            if field.name not in ("model", "simulator", "linearization", "occupancy"):
                assert_equal(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize(
    ("algorithm", "problem"),
    [(adam(), PROBLEM), (bl.algorithm("sobirl"), SAMPLED), (bl.algorithm("stoc-sobirl"), SAMPLED)],
    ids=["tabular", "sampled", "stochastic"],
)
def test_what_was_encoded_is_decoded_bit_for_bit(algorithm: bl.Algorithm, problem: bl.BilevelProblem) -> None:
    checkpoint = checkpoint_of(algorithm, problem)
    assert_equal(decode(encode(checkpoint), "it", problem), checkpoint)


@given(
    st.dictionaries(
        st.text(max_size=5),
        arrays_of.arrays(
            st.sampled_from(sorted(KINDS)).map(np.dtype), arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)
        ).flatmap(lambda array: st.sampled_from([array, np.asfortranarray(array), array.T])),
        max_size=3,
    )
)
def test_arrays_of_every_type_shape_and_order_survive(arrays: dict[str, Any]) -> None:
    content, found = unpack(pack({"number": 0.1}, arrays), "it")
    assert content == {"number": 0.1}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.c_contiguous == array.flags.c_contiguous
        assert found[name].flags.f_contiguous == array.flags.f_contiguous
        assert found[name].flags.writeable


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["text"]), np.array([1j]), np.array([{}])])
def test_array_of_anything_but_numbers_is_refused(value: Any) -> None:
    with pytest.raises(bl.InputError, match=r"array 'adjoint' of the run's state is of type .*; expected numbers"):
        pack({}, {"adjoint": value})


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    data = bytearray(GOOD)
    data[position] ^= change
    with pytest.raises(bl.InputError):
        decode(bytes(data), "the checkpoint", PROBLEM)


@given(st.integers(0, len(GOOD) - 1))
def test_no_truncation_goes_unnoticed(length: int) -> None:
    with pytest.raises(DamagedError):
        decode(GOOD[:length], "the checkpoint", PROBLEM)


@given(st.binary(max_size=300))
def test_bytes_that_were_never_a_checkpoint_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(data, "the checkpoint", PROBLEM)
    checksum = hashlib.sha256(data).hexdigest().encode()
    with pytest.raises(DamagedError):
        decode(b"bilevelrl checkpoint 1\n" + checksum + b"\n" + data, "the checkpoint", PROBLEM)


def test_newer_format_is_one_sentence() -> None:
    data = GOOD.replace(b"checkpoint 1\n", b"checkpoint 2\n", 1)
    with pytest.raises(bl.InputError) as caught:
        decode(data, "runs/first/checkpoint", PROBLEM)
    assert str(caught.value) == (
        "runs/first/checkpoint is of format 2; expected format 1 or older; update bilevelrl to read it"
    )
    assert not isinstance(caught.value, DamagedError)


SHAPES: dict[str, list[Any]] = {
    "huge": [10**9, 10**9],
    "huge and empty": [10**30, 0],
    "negative": [-1, -8],
    "a float": [2.0],
    "a flag": [True],
    "too many": [1] * 1000,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sizes_are_checked_before_anything_is_allocated(shape: list[Any]) -> None:
    def change(told: Any, _: bytes) -> None:
        told["arrays"][0][2] = shape

    data = forged(change)
    tracemalloc.start()
    with pytest.raises(DamagedError):
        decode(data, "the checkpoint", PROBLEM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


PLACES = {
    "object array": (1, "O8"),
    "text array": (1, "U4"),
    "order": (3, "K"),
    "kind is a list": (1, ["f8"]),
    "name is a number": (0, 7),
}


@pytest.mark.parametrize(("position", "value"), PLACES.values(), ids=PLACES)
def test_forged_place_of_an_array_is_refused(position: int, value: Any) -> None:
    def change(told: Any, _: bytes) -> None:
        told["arrays"][0][position] = value

    with pytest.raises(DamagedError):
        decode(forged(change), "the checkpoint", PROBLEM)


LEAVES = [None, -1, 0.5, math.nan, 10**40, "text", [], {}, True]


def paths(told: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of the JSON lies."""
    items: Any = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    return [path, *(below for key, value in items for below in paths(value, (*path, key)))][bool(not path) :]


@given(st.data())
def test_forged_json_is_an_input_error_or_a_checkpoint_and_never_a_traceback(data: st.DataObject) -> None:
    def change(told: Any, _: bytes) -> None:
        *way, last = data.draw(st.sampled_from(paths(told)))
        for key in way:
            told = told[key]
        told[last] = data.draw(st.sampled_from(LEAVES))

    with contextlib.suppress(bl.InputError):
        found = decode(forged(change), "the checkpoint", PROBLEM)
        assert len(found.history) == found.last.iteration + 1


FORGERIES = {
    "columns": ("content", "columns", ["iteration"]),
    "history": ("arrays", 0, ["other", "f8", [3, 14], "C"]),
    "history of another length": ("content", "last", None),
    "carry of words": ("content", "versions", ["0.1.0"]),
}


@pytest.mark.parametrize(("part", "key", "value"), FORGERIES.values(), ids=FORGERIES)
def test_forged_part_is_refused(part: str, key: Any, value: Any) -> None:
    def change(told: Any, _: bytes) -> None:
        told[part][key] = value

    with pytest.raises(DamagedError):
        decode(forged(change), "the checkpoint", PROBLEM)


def test_answer_that_its_problem_cannot_have_is_refused() -> None:
    def change(told: Any, _: bytes) -> None:
        told["content"]["last"]["solution"]["kind"] = "no such kind"

    with pytest.raises(
        bl.InputError, match="answer in the checkpoint is 'no such kind'; expected one that its problem"
    ):
        decode(forged(change), "the checkpoint", PROBLEM)


def test_bytes_after_the_arrays_are_refused() -> None:
    with pytest.raises(DamagedError):
        decode(forged(lambda told, arrays: arrays + b"more"), "the checkpoint", PROBLEM)


def test_json_nested_too_deeply_is_refused() -> None:
    text = b"[" * 100_000
    payload = b"%d\n%s" % (len(text), text)
    data = b"bilevelrl checkpoint 1\n%s\n%s" % (hashlib.sha256(payload).hexdigest().encode(), payload)
    with pytest.raises(DamagedError):
        decode(data, "the checkpoint", PROBLEM)


def test_checkpoint_of_another_size_of_problem_is_refused() -> None:
    other = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=4)
    with pytest.raises(bl.InputError, match=r"the shape of x is \(2,\); expected \(4,\)"):
        decode(GOOD, "the checkpoint", other)
    other = bl.problem("synthetic-quadratic", states=5, actions=2, dimension=2)
    with pytest.raises(bl.InputError, match=r"the follower's tables in the checkpoint is \(3, 2\)"):
        decode(GOOD, "the checkpoint", other)


def test_answer_of_a_class_of_its_own_cannot_be_saved() -> None:
    checkpoint = checkpoint_of(adam(), PROBLEM)

    @attrs.define
    class Answer:
        cost: bl.Cost
        status: bl.Status

    last = attrs.evolve(checkpoint.last, solution=Answer(bl.Cost(), bl.Status.CONVERGED))
    assert can_be_saved(checkpoint.last)
    assert not can_be_saved(last)
    with pytest.raises(bl.InputError, match="the follower's answer is an Answer; expected a TabularSolution"):
        encode(attrs.evolve(checkpoint, last=last))


def test_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "checkpoint"
    write_atomically(file, b"old")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
