"""Checkpoints as bytes: what goes in comes out bit for bit, and no other bytes are believed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays_of

import bilevelrl as bl
from bilevelrl.storage.array_files import KINDS, checked_arrays
from bilevelrl.storage.checkpoint import Checkpoint, decode as decode_with, encode as encode_with
from bilevelrl.storage.container import DamagedError, pack, unpack
from bilevelrl.storage.files import write_atomically

PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)
SAMPLED = bl.problem("gridworld-preferences")
TABULAR = bl.lower_level_solver("soft-value-iteration")
LEARNER = bl.lower_level_solver("soft-q-learning")


def encode(checkpoint: Checkpoint, lower: Any = TABULAR) -> bytes:
    return encode_with(checkpoint, lower)


def decode(data: bytes, name: str, problem: bl.BilevelProblem, lower: Any = TABULAR) -> Checkpoint:
    return decode_with(data, name, problem, lower)


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


@functools.cache
def learnt() -> bytes:
    """A checkpoint of a learner; made by the test that asks for it first, since its run may compile for seconds."""
    return encode(checkpoint_of(bl.algorithm("sobirl", samples=200), SAMPLED, 1), LEARNER)


def signed(document: Any, arrays: bytes) -> bytes:
    """A checkpoint with a checksum that fits: what a stranger could send."""
    text = json.dumps(document).encode()
    payload = b"%d\n%s%s" % (len(text), text, arrays)
    return b"bilevelrl checkpoint 2\n%s\n%s" % (hashlib.sha256(payload).hexdigest().encode(), payload)


def parts(data: bytes) -> tuple[Any, bytes]:
    """The JSON document and the safetensors of a checkpoint."""
    _, _, payload = data.split(b"\n", 2)
    length, _, rest = payload.partition(b"\n")
    return json.loads(rest[: int(length)]), rest[int(length) :]


def forged(change: Any, data: bytes = GOOD) -> bytes:
    """A good checkpoint with its JSON or its arrays' bytes changed."""
    document, arrays = parts(data)
    changed = change(document, arrays)
    return signed(document, arrays if changed is None else changed)


def with_array(name: str, change: Any, data: bytes = GOOD) -> bytes:
    """A good checkpoint with one array replaced by what `change` makes of it, or left out where that is None."""
    document, packed = parts(data)
    arrays = safetensors.numpy.load(packed)
    made = change(arrays.pop(name))
    return signed(document, safetensors.numpy.save(arrays if made is None else arrays | {name: made}))


def with_header(change: Any) -> bytes:
    """A good checkpoint with the header of its safetensors changed."""
    document, packed = parts(GOOD)
    length = int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return signed(document, len(text).to_bytes(8, "little") + text + packed[8 + length :])


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
    [(adam(), PROBLEM), (bl.algorithm("sobirl", samples=200), SAMPLED), (bl.algorithm("stoc-sobirl"), SAMPLED)],
    ids=["tabular", "sampled", "stochastic"],
)
def test_what_was_encoded_is_decoded_bit_for_bit(algorithm: bl.Algorithm, problem: bl.BilevelProblem) -> None:
    checkpoint = checkpoint_of(algorithm, problem)
    assert_equal(decode(encode(checkpoint, algorithm.lower), "it", problem, algorithm.lower), checkpoint)


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
    content, found = unpack(pack({"number": 0.1}, checked_arrays(arrays, "it")), "it")
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
    with pytest.raises(bl.InputError, match=r"array 'adjoint' of the carry is of type .*; expected numbers or flags"):
        checked_arrays({"adjoint": value}, "the carry")


def test_two_arrays_of_one_name_and_names_that_are_none_are_refused() -> None:
    one = np.zeros(2)
    with pytest.raises(bl.InputError, match="array 'a' of the carry is there twice; expected one array of each name"):
        checked_arrays([("a", one), ("b", one), ("a", one)], "the carry")
    for name in (3, None, "\ud800"):
        with pytest.raises(bl.InputError, match=r"the name of an array of the carry is .*; expected a string"):
            checked_arrays([(name, one)], "the carry")


def test_numbers_that_json_does_not_have_survive() -> None:
    """And the document has neither NaN nor Infinity in it, which other readers would refuse."""
    content = {"a": math.inf, "b": [-math.inf, {"c": math.nan}], "d": "nan", "e": 0.1, "f": None, "g": 2**63 - 1}
    data = pack(content, {})
    assert repr(unpack(data, "it")[0]) == repr(content)
    json.loads(json.dumps(parts(data)[0]), parse_constant=lambda word: pytest.fail(word))


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
        decode(b"bilevelrl checkpoint 2\n" + checksum + b"\n" + data, "the checkpoint", PROBLEM)


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_one_sentence(other: int) -> None:
    data = GOOD.replace(b"checkpoint 2\n", b"checkpoint %d\n" % other, 1)
    with pytest.raises(bl.InputError) as caught:
        decode(data, "runs/first/checkpoint", PROBLEM)
    assert str(caught.value) == (
        f"runs/first/checkpoint is of format {other}; "
        "expected format 2; read it with the version of bilevelrl that wrote it"
    )
    assert not isinstance(caught.value, DamagedError)


SHAPES: dict[str, list[Any]] = {
    "huge": [10**9, 10**9],
    "huge and empty": [10**30, 0],
    "huge, empty and an integer": [2**62, 0],
    "negative": [-1, -8],
    "a float": [2.0],
    "a flag": [True],
    "too many": [1] * 1000,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sizes_are_checked_before_anything_is_allocated(shape: list[Any]) -> None:
    data = with_header(lambda header: header["last.x"].update(shape=shape))
    tracemalloc.start()
    with pytest.raises(DamagedError):
        decode(data, "the checkpoint", PROBLEM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


HEADERS = {
    "type that NumPy does not have": {"dtype": "BF16"},
    "complex numbers": {"dtype": "C64"},
    "no type": {"dtype": ["F64"]},
    "bytes of another array": {"data_offsets": [0, 8]},
    "bytes beyond the file": {"data_offsets": [0, 10**12]},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_forged_header_of_an_array_is_refused(change: Any) -> None:
    with pytest.raises(DamagedError):
        decode(with_header(lambda header: header["last.x"].update(change)), "the checkpoint", PROBLEM)


def test_header_longer_than_the_file_or_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    document, packed = parts(GOOD)
    with pytest.raises(DamagedError):
        decode(signed(document, (2**62).to_bytes(8, "little") + packed[8:]), "the checkpoint", PROBLEM)
    monkeypatch.setattr("bilevelrl.storage.array_files.memory_limit", lambda: 10_000)
    with pytest.raises(DamagedError):
        decode(GOOD, "the checkpoint", PROBLEM)


TABLES: dict[str, tuple[str, Any, str]] = {
    "policy of another type": ("policy", lambda a: a.astype(np.float32), r"the type of the saved array 'policy'"),
    "policy of flags": ("policy", lambda a: a > 0.5, r"the type of the saved array 'policy' is bool"),
    "policy of another shape": ("policy", lambda a: a[:, :1], r"shape of the saved array 'policy' is \(3, 1\)"),
    "policy that is negative": ("policy", lambda a: a - 2.0, r"the smallest entry of the saved array 'policy'"),
    "policy that is no distribution": ("policy", lambda a: 0.5 * a, r"the rows of the saved array 'policy' is 0\.5"),
    "policy of NaN": ("policy", lambda a: a * np.nan, r"the saved array 'policy' is not finite"),
    "infinite values": ("values", lambda a: a + np.inf, r"the saved array 'values' is not finite"),
    "no values": ("values", lambda a: None, r"the saved array 'values' is missing"),
    "values of the shape of a policy": ("values", lambda a: np.zeros((3, 2)), r"'values' is \(3, 2\); expected \(3,\)"),
}


@pytest.mark.parametrize("what", TABLES)
def test_forged_table_is_refused_in_one_sentence(what: str) -> None:
    name, change, sentence = TABLES[what]
    with pytest.raises(bl.InputError, match=sentence):
        decode(with_array(f"last.solution.{name}", change), "the checkpoint", PROBLEM)


@pytest.mark.parametrize("name", ["visits", "averaged", "calls"])
@pytest.mark.parametrize(
    "change", [lambda a: a - 1e6, lambda a: a * np.nan, lambda a: a[:1, ...][:, None], lambda a: None]
)
def test_forged_carry_reaches_no_compiled_loop(name: str, change: Any) -> None:
    data = with_array(f"last.solution.carry.{name}", change, learnt())
    with pytest.raises(bl.InputError, match=f"the saved array '{name}'"):
        decode(data, "the checkpoint", SAMPLED, LEARNER)


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", None, 2**70])
def test_forged_figure_is_refused_in_one_sentence(value: Any) -> None:
    def change(document: Any, _: bytes) -> None:
        document["content"]["last"]["solution"]["iterations"] = value

    with pytest.raises(bl.InputError, match=r"the saved figure 'iterations' is .*; expected a whole number"):
        decode(forged(change), "the checkpoint", PROBLEM)


@pytest.mark.parametrize(("part", "value"), [("status", "FINE"), ("residual", "none"), ("cost", 3)])
def test_forged_outcome_is_refused_in_one_sentence(part: str, value: Any) -> None:
    def change(document: Any, _: bytes) -> None:
        document["content"]["last"]["solution"][part] = value

    with pytest.raises(bl.InputError, match=f"the saved {part} is {value!r}"):
        decode(forged(change), "the checkpoint", PROBLEM)


LEAVES = [None, -1, 0.5, math.nan, 10**40, "text", [], {}, True]


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of the JSON lies."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
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
    "arrays that are not there": (None, "by_columns", ["none"]),
    "history of another length": ("content", "last", None),
    "words for versions": ("content", "versions", ["0.1.0"]),
}


@pytest.mark.parametrize(("part", "key", "value"), FORGERIES.values(), ids=FORGERIES)
def test_forged_part_is_refused(part: str | None, key: Any, value: Any) -> None:
    def change(document: Any, _: bytes) -> None:
        (document if part is None else document[part])[key] = value

    with pytest.raises(DamagedError):
        decode(forged(change), "the checkpoint", PROBLEM)


def test_answer_that_its_problem_cannot_have_is_refused() -> None:
    with pytest.raises(bl.InputError, match="the saved array 'visits' is missing"):
        decode(GOOD, "the checkpoint", PROBLEM, LEARNER)


def test_bytes_after_the_arrays_are_refused() -> None:
    with pytest.raises(DamagedError):
        decode(forged(lambda document, arrays: arrays + b"more"), "the checkpoint", PROBLEM)


def test_json_nested_too_deeply_is_refused() -> None:
    text = b"[" * 100_000
    payload = b"%d\n%s" % (len(text), text)
    data = b"bilevelrl checkpoint 2\n%s\n%s" % (hashlib.sha256(payload).hexdigest().encode(), payload)
    with pytest.raises(DamagedError):
        decode(data, "the checkpoint", PROBLEM)


def test_checkpoint_of_another_size_of_problem_is_refused() -> None:
    other = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=4)
    with pytest.raises(bl.InputError, match=r"the shape of x is \(2,\); expected \(4,\)"):
        decode(GOOD, "the checkpoint", other)
    other = bl.problem("synthetic-quadratic", states=5, actions=2, dimension=2)
    with pytest.raises(bl.InputError, match=r"the saved array 'policy' is \(3, 2\); expected \(5, 2\)"):
        decode(GOOD, "the checkpoint", other)


def test_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "checkpoint"
    write_atomically(file, b"old")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
