"""Checkpoints of runs as bytes. They are not trusted: everything is checked before it is used, and pickle is not used.

Handles (the model, the simulator, factorisations) are not saved: solvers rebuild them from the problem and x.
`container` defines the layout of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.outer_loop import BestIterate, OuterState
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import HyperGradient, LowerLevelSolver, OptimizerState, Status, cost_from
from bilevelrl.storage.array_files import Arrays, checked_arrays
from bilevelrl.storage.container import damage, mapping, pack, unpack
from bilevelrl.storage.history import History
from bilevelrl.storage.solutions import restored_solution, saved_solution
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, printable, value_words
from bilevelrl.validation.notices import Notice
from bilevelrl.validation.saved import saved_count


class CheckpointWarning(Notice):
    """A checkpoint was skipped, could not be written, or was written by other versions."""


class UnsaveableError(InputError):
    """A run's state has a part that no checkpoint can hold, such as an array of objects."""


@attrs.frozen(eq=False)
class Checkpoint:
    """The data that a run needs to be resumed and reported.

    Args:
        first: the run's first state.
        last: the last good state.
        history: figures for every iteration so far.
        best: see `Run.best`.
        settings: iterations, seed and tolerance.
        tables: the tables of its experiment: its components with their options.
        versions: the versions of libraries and plugins that made it, by name.
        status: how it ended; `Status.INTERRUPTED` for a run in progress.
        stopped_by: the component that failed, and the iteration.
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


def encode(checkpoint: Checkpoint, lower: LowerLevelSolver) -> bytes:
    """The checkpoint as bytes.

    Args:
        checkpoint: the checkpoint.
        lower: the solver of its solutions, for messages.

    Raises:
        InputError: if a state cannot be saved, such as a `carry` that is not made of numbers.
    """
    history = checkpoint.history
    arrays: Arrays = {"history": history.table()}
    best = checkpoint.best
    if best is not None:
        arrays["best.x"] = best.x
    content = {
        "columns": list(history.columns),
        "best": None if best is None else [best.iteration, best.objective, best.bound],
        "first": _describe_state(checkpoint.first, "first", arrays, lower),
        "last": _describe_state(checkpoint.last, "last", arrays, lower),
        "settings": dict(checkpoint.settings),
        "tables": checkpoint.tables,
        "versions": dict(checkpoint.versions),
        "status": checkpoint.status.name,
        "stopped_by": checkpoint.stopped_by,
        "seconds": checkpoint.seconds,
    }
    return pack(content, arrays)


def decode(data: bytes, name: str, problem: BilevelProblem, lower: LowerLevelSolver) -> Checkpoint:
    """The checkpoint that `encode` wrote, with its solutions restored by their solver.

    Raises:
        DamagedError: if the bytes are not those that were written.
        InputError: if the format or the problem is another one, or the solver does not restore the solutions as they
            were.
    """
    content, arrays = unpack(data, name)
    # A run that diverges may be saved at an x whose square overflows.
    with damage(name, "incomplete"), np.errstate(over="ignore", invalid="ignore"):
        solved = content["tables"]["problem"]["name"]
        if solved != problem.name:
            raise InputError(f"the problem of {name}", value_words(solved), f"{problem.name!r}, which is to be solved")
        checkpoint = Checkpoint(
            _restore_state(content["first"], "first", arrays, problem, lower),
            _restore_state(content["last"], "last", arrays, problem, lower),
            History.of(content["columns"], _numbers(arrays, "history")),
            _restore_best(content["best"], arrays, problem),
            mapping(content["settings"]),
            mapping(content["tables"]),
            {printable(key): printable(version) for key, version in mapping(content["versions"]).items()},
            Status[content["status"]],
            printable(content["stopped_by"]),
            float(content["seconds"]),
        )
        if len(checkpoint.history) != checkpoint.last.iteration + 1:
            raise ValueError("history")
    return checkpoint


def check_saveable(state: OuterState, lower: LowerLevelSolver) -> None:
    """Raise `UnsaveableError` if a state cannot be saved, so that a run fails at its beginning, not at its end."""
    try:
        _describe_state(state, "first", {}, lower)
    except InputError as error:
        raise UnsaveableError(error.field, error.value, error.expected) from None


def _describe_state(state: OuterState, name: str, arrays: Arrays, lower: LowerLevelSolver) -> dict[str, Any]:
    hyper = state.hyper
    parts = {"x": state.x, "hyper.direct": hyper.direct, "hyper.implicit": hyper.implicit}
    if hyper.standard_error is not None:
        parts["hyper.standard_error"] = hyper.standard_error
    solved, figures = saved_solution(state.solution, f"lower-level solver {lower.name!r}")
    for prefix, found in (
        ("", checked_arrays(parts, "the run's state")),
        ("solution.", solved),
        ("hyper.carry.", checked_arrays(hyper.carry, "the hyper-gradient's carry")),
        ("optimizer.arrays.", checked_arrays(state.optimizer.arrays, "the optimizer's state")),
    ):
        arrays |= {f"{name}.{prefix}{part}": array for part, array in found.items()}
    return {
        "iteration": state.iteration,
        "cost": dict(state.cost.counts),
        "seconds": state.seconds,
        "solution": figures,
        "hyper": {
            "objective": float(hyper.objective),
            "objective_error": float(hyper.objective_error),
            "residual": None if hyper.residual is None else float(hyper.residual),
            "cost": dict(hyper.cost.counts),
            "status": hyper.status.name,
        },
        "optimizer": {"steps": state.optimizer.steps},
    }


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _restore_state(
    saved: Any, name: str, arrays: Arrays, problem: BilevelProblem, lower: LowerLevelSolver
) -> OuterState:
    x, hyper = problem.point(_numbers(arrays, f"{name}.x")), saved["hyper"]
    direct, implicit = (_numbers(arrays, f"{name}.hyper.{part}") for part in ("direct", "implicit"))
    error = _numbers(arrays, f"{name}.hyper.standard_error") if f"{name}.hyper.standard_error" in arrays else None
    if not x.shape == direct.shape == implicit.shape or (error is not None and error.shape != x.shape):
        raise ValueError("gradient")
    return OuterState(
        saved_count(saved, "iteration"),
        x,
        restored_solution(lower, problem, x, _below(arrays, f"{name}.solution."), mapping(saved["solution"])),
        HyperGradient(
            direct,
            implicit,
            float(hyper["objective"]),
            None,
            cost_from(hyper["cost"]),
            Status[hyper["status"]],
            None if hyper["residual"] is None else float(hyper["residual"]),
            error,
            _below(arrays, f"{name}.hyper.carry."),
            float(hyper["objective_error"]),
        ),
        OptimizerState(saved_count(saved["optimizer"], "steps"), _below(arrays, f"{name}.optimizer.arrays.")),
        cost_from(saved["cost"]),
        float(saved["seconds"]),
    )


def _restore_best(saved: Any, arrays: Arrays, problem: BilevelProblem) -> BestIterate | None:
    if saved is None:
        return None
    iteration, objective, bound = saved
    count = saved_count({"iteration": iteration}, "iteration")
    return BestIterate(count, problem.point(_numbers(arrays, "best.x")), float(objective), float(bound))


def _numbers(arrays: Arrays, name: str) -> Array:
    """An array for arithmetic: raises for flags, whose arithmetic is different."""
    array: Array = arrays[name]
    if array.dtype.kind not in "fiu":
        raise ValueError("type")
    return array
