"""A run in the middle, as bytes: JSON and plain arrays, checked before they are believed; no pickle.

    bilevelrl checkpoint 1\\n            the format and its version
    <sha256 of all that follows>\\n      64 hexadecimal digits
    <length of the JSON>\\n              decimal
    <JSON>                              numbers, words, and where each array lies
    <arrays>                            their bytes, little-endian, one after another

An array is as long as its bytes in the file, so that no file can ask for more memory than it fills itself; JSON is
read where its values fit into memory, however small they are written. Handles (the model, the simulator,
factorisations) are never in it: they are rebuilt from the problem and x.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.solution import SupportsModel, TabularSolution
from bilevelrl.outer_loop import BestIterate, OuterState
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, HyperGradient, OptimizerState, Status
from bilevelrl.sampling.solution import SampledSolution, SupportsSampling
from bilevelrl.storage.archives import KINDS, MOST_DIMENSIONS
from bilevelrl.storage.history import COLUMNS, History
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, kind_words, printable, value_words
from bilevelrl.validation.memory import memory_limit
from bilevelrl.validation.notices import Notice

MAGIC = b"bilevelrl checkpoint "
FORMAT = 1
LARGEST_COUNT = 2**63 - 1

JSON_BLOAT = 40
"""Bytes of memory that a byte of JSON can take: `[[],[],…]` is 3 bytes a list of 56, and its place in a list."""


class CheckpointWarning(Notice):
    """A checkpoint was passed over, could not be written, or was written by other versions."""


class DamagedError(InputError):
    """Bytes that are no checkpoint, or no longer the ones that were written."""


@attrs.frozen(eq=False)
class Checkpoint:
    """All that a run needs to go on, and to be reported on.

    Args:
        first: the state it began with.
        last: the last good state.
        history: figures for every iteration so far.
        best: see `Run.best`.
        settings: iterations, seed and tolerance.
        tables: the tables of its experiment: who runs, with which options.
        versions: what made it, by name.
        status: how it ended; `Status.INTERRUPTED` for a run that is still going.
        stopped_by: what failed, and when.
        seconds: wall-clock time so far.
    """

    first: OuterState
    last: OuterState
    history: History
    best: BestIterate | None
    settings: Mapping[str, Any]
    tables: Mapping[str, Any]
    versions: Mapping[str, str]
    status: Status
    stopped_by: str
    seconds: float


def can_be_saved(state: OuterState) -> bool:
    """Whether the follower's answer is of a kind that a checkpoint holds."""
    return type(state.solution) in (TabularSolution, SampledSolution)


def encode(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as bytes.

    Raises:
        InputError: for an answer of a class of its own, and for a `carry` that is not made of numbers.
    """
    arrays: dict[str, Array] = {"history": checkpoint.history.table()}
    best = checkpoint.best
    if best is not None:
        arrays["best.x"] = best.x
    content = {
        "columns": COLUMNS,
        "best": None if best is None else [best.iteration, best.objective, best.bound],
        "first": _describe_state(checkpoint.first, "first", arrays),
        "last": _describe_state(checkpoint.last, "last", arrays),
        "settings": dict(checkpoint.settings),
        "tables": checkpoint.tables,
        "versions": dict(checkpoint.versions),
        "status": checkpoint.status.name,
        "stopped_by": checkpoint.stopped_by,
        "seconds": checkpoint.seconds,
    }
    return pack(content, arrays)


def decode(data: bytes, name: str, problem: BilevelProblem) -> Checkpoint:
    """The checkpoint that `encode` wrote, with its handles rebuilt from the problem.

    Raises:
        DamagedError: where the bytes are not what was written.
        InputError: for a newer format, and for another problem than the one it was written for.
    """
    content, arrays = unpack(data, name)
    # A run that diverges may be saved at an x whose square overflows.
    with _damage(name, "incomplete"), np.errstate(over="ignore", invalid="ignore"):
        if tuple(content["columns"]) != COLUMNS:
            raise ValueError("columns")
        solved = content["tables"]["problem"]["name"]
        if solved != problem.name:
            raise InputError(f"the problem of {name}", value_words(solved), f"{problem.name!r}, which is to be solved")
        table = arrays["history"]
        if table.ndim != 2 or table.shape[1] != len(COLUMNS) or not len(table):
            raise ValueError("history")
        checkpoint = Checkpoint(
            _restore_state(content["first"], "first", arrays, problem),
            _restore_state(content["last"], "last", arrays, problem),
            History.of(table),
            _restore_best(content["best"], arrays, problem),
            _mapping(content["settings"]),
            _mapping(content["tables"]),
            {printable(key): printable(version) for key, version in _mapping(content["versions"]).items()},
            Status[content["status"]],
            printable(content["stopped_by"]),
            float(content["seconds"]),
        )
        if len(table) != checkpoint.last.iteration + 1:
            raise ValueError("history")
    return checkpoint


def pack(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """JSON and arrays in the layout above."""
    blocks, places = [], []
    for name, array in arrays.items():
        value = np.asarray(array)
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        kind = value.dtype.str[1:]
        if kind not in KINDS:
            raise InputError(f"array {name!r} of the run's state", f"of type {value.dtype}", "numbers, to be saved")
        # The order in memory is part of what makes sums of floats what they are.
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        blocks.append(value.tobytes(order=order))  # type: ignore[arg-type]
        places.append([name, kind, list(value.shape), order])
    told = json.dumps({"content": content, "arrays": places}, ensure_ascii=False, default=_plain).encode()
    payload = b"".join([str(len(told)).encode(), b"\n", told, *blocks])
    digest = hashlib.sha256(payload).hexdigest().encode()
    return b"".join([MAGIC, str(FORMAT).encode(), b"\n", digest, b"\n", payload])


def unpack(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `pack` put together; raises `DamagedError` for anything else, `InputError` for a newer format."""
    first, _, rest = data[:4096].partition(b"\n")
    version = first.removeprefix(MAGIC)
    if not first.startswith(MAGIC) or not version.isdigit() or len(version) > 9:
        raise DamagedError(name, "no checkpoint, or a damaged one", "a file that bilevelrl wrote")
    if int(version) > FORMAT:
        raise InputError(name, f"of format {int(version)}", f"format {FORMAT} or older; update bilevelrl to read it")
    digest, _, _ = rest.partition(b"\n")
    payload = memoryview(data)[len(first) + len(digest) + 2 :]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise DamagedError(name, "damaged (its checksum does not fit)", "a file as it was written")
    with _damage(name, "malformed"):
        length, _, _ = bytes(payload[:32]).partition(b"\n")
        begin = len(length) + 1
        end = begin + int(length)
        if not begin <= end <= len(payload) or (end - begin) * JSON_BLOAT > memory_limit():
            raise ValueError("length")
        told = json.loads(bytes(payload[begin:end]))
        return _mapping(told["content"]), _cut(told["arrays"], payload[end:])


def _cut(places: Any, payload: memoryview) -> dict[str, Array]:
    """The arrays; every size is compared with what is there before anything is allocated."""
    arrays: dict[str, Array] = {}
    position = 0
    for name, kind, shape, order in places:
        if kind not in KINDS or order not in ("C", "F") or len(shape) > MOST_DIMENSIONS:
            raise ValueError("array")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("shape")
        size = math.prod(shape) * int(kind[1:])
        if size > len(payload) - position or not isinstance(name, str):
            raise ValueError("size")
        flat = np.frombuffer(payload[position : position + size], np.dtype("<" + kind))
        arrays[name] = np.array(flat.reshape(shape, order=order), order=order, copy=True)
        position += size
    if position != len(payload):
        raise ValueError("more than its arrays")
    return arrays


@contextlib.contextmanager
def _damage(name: str, how: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError):
        raise DamagedError(name, how, "a checkpoint that bilevelrl wrote") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise InputError("a number of the run's state", value_words(value), "a number, to be saved")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _describe_state(state: OuterState, name: str, arrays: dict[str, Array]) -> dict[str, Any]:
    hyper = state.hyper
    arrays[f"{name}.x"] = state.x
    arrays[f"{name}.hyper.direct"], arrays[f"{name}.hyper.implicit"] = hyper.direct, hyper.implicit
    if hyper.standard_error is not None:
        arrays[f"{name}.hyper.standard_error"] = hyper.standard_error
    _collect(hyper.carry, f"{name}.hyper.carry.", arrays)
    _collect(state.optimizer.arrays, f"{name}.optimizer.arrays.", arrays)
    return {
        "iteration": state.iteration,
        "cost": dict(state.cost.counts),
        "seconds": state.seconds,
        "solution": _describe_solution(state.solution, f"{name}.solution", arrays),
        "hyper": {
            "objective": float(hyper.objective),
            "objective_error": float(hyper.objective_error),
            "residual": None if hyper.residual is None else float(hyper.residual),
            "cost": dict(hyper.cost.counts),
            "status": hyper.status.name,
        },
        "optimizer": {"steps": state.optimizer.steps},
    }


def _describe_solution(solution: Any, name: str, arrays: dict[str, Array]) -> dict[str, Any]:
    told = {"residual": float(getattr(solution, "residual", math.nan)), "cost": dict(solution.cost.counts)}
    told["status"] = solution.status.name
    if type(solution) is TabularSolution:
        for part in ("policy", "values", "action_values"):
            arrays[f"{name}.{part}"] = getattr(solution, part)
        return told | {"kind": "tabular", "iterations": solution.iterations}
    if type(solution) is SampledSolution:
        for part in ("policy", "action_values"):
            arrays[f"{name}.{part}"] = getattr(solution, part)
        _collect(solution.carry, f"{name}.carry.", arrays)
        return told | {"kind": "sampled"}
    expected = "a TabularSolution or a SampledSolution, since no other says which arrays it is made of"
    raise InputError("the follower's answer", kind_words(solution), expected)


def _collect(values: Mapping[str, Array], prefix: str, arrays: dict[str, Array]) -> None:
    for key, value in values.items():
        arrays[prefix + key] = np.asarray(value)


def _below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _restore_state(told: Any, name: str, arrays: Mapping[str, Array], problem: BilevelProblem) -> OuterState:
    x, hyper = problem.point(_numbers(arrays, f"{name}.x")), told["hyper"]
    direct, implicit = (_numbers(arrays, f"{name}.hyper.{part}") for part in ("direct", "implicit"))
    error = _numbers(arrays, f"{name}.hyper.standard_error") if f"{name}.hyper.standard_error" in arrays else None
    if not x.shape == direct.shape == implicit.shape or (error is not None and error.shape != x.shape):
        raise ValueError("gradient")
    return OuterState(
        _count(told["iteration"]),
        x,
        _restore_solution(told["solution"], f"{name}.solution", arrays, problem, x),
        HyperGradient(
            direct,
            implicit,
            float(hyper["objective"]),
            None,
            _cost(hyper["cost"]),
            Status[hyper["status"]],
            None if hyper["residual"] is None else float(hyper["residual"]),
            error,
            _below(arrays, f"{name}.hyper.carry."),
            float(hyper["objective_error"]),
        ),
        OptimizerState(_count(told["optimizer"]["steps"]), _below(arrays, f"{name}.optimizer.arrays.")),
        _cost(told["cost"]),
        float(told["seconds"]),
    )


def _restore_best(told: Any, arrays: Mapping[str, Array], problem: BilevelProblem) -> BestIterate | None:
    if told is None:
        return None
    iteration, objective, bound = told
    return BestIterate(_count(iteration), problem.point(_numbers(arrays, "best.x")), float(objective), float(bound))


def _restore_solution(
    told: Any, name: str, arrays: Mapping[str, Array], problem: BilevelProblem, x: Array
) -> TabularSolution | SampledSolution:
    residual, status, cost = float(told["residual"]), Status[told["status"]], _cost(told["cost"])
    policy, action_values = _numbers(arrays, f"{name}.policy"), _numbers(arrays, f"{name}.action_values")
    lower = problem.lower
    if told["kind"] == "tabular" and isinstance(lower, SupportsModel):
        model, values = lower.model(x), _numbers(arrays, f"{name}.values")
        _check_tables(problem, (model.states, model.actions), policy, action_values)
        _check_tables(problem, (model.states,), values)
        steps = _count(told["iterations"])
        return TabularSolution(model, policy, values, action_values, residual, steps, status, cost)
    if told["kind"] == "sampled" and isinstance(lower, SupportsSampling):
        simulator = lower.simulator(x)
        _check_tables(problem, (simulator.spec.states, simulator.spec.actions), policy, action_values)
        carry = _below(arrays, f"{name}.carry.")
        return SampledSolution(simulator, policy, action_values, residual, status, cost, carry)
    raise InputError("the follower's answer in the checkpoint", value_words(told["kind"]), "one that its problem has")


def _check_tables(problem: BilevelProblem, shape: tuple[int, ...], *tables: Array) -> None:
    for table in tables:
        if table.shape != shape:
            label = "the shape of the follower's tables in the checkpoint"
            raise InputError(label, str(table.shape), f"the {shape} of problem {problem.name!r}")


def _cost(told: Any) -> Cost:
    return Cost(**{unit: _count(count) for unit, count in _mapping(told).items()})


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise ValueError("count")
    return value


def _numbers(arrays: Mapping[str, Array], name: str) -> Array:
    """An array that is computed with: with flags, arithmetic would mean something else."""
    array = arrays[name]
    if array.dtype.kind not in "fiu":
        raise ValueError("type")
    return array
