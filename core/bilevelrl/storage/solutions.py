"""A follower's solution of any kind as arrays and figures, and its restoration by its solver's `restore`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import OUTCOME, LowerLevelSolution, LowerLevelSolver
from bilevelrl.storage.array_files import Arrays, checked_arrays
from bilevelrl.storage.json_files import plain
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, kind_words, value_words
from bilevelrl.validation.saved import LARGEST_COUNT


def saved_solution(solution: LowerLevelSolution, label: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the figures of a solution, with its status, residual and cost among the figures.

    Args:
        solution: a solver's answer.
        label: the solver's name in messages.

    Raises:
        InputError: if it cannot be saved: an array of objects, two arrays of one name, a figure of another type.
    """
    owner = f"the solution of {label}"
    arrays = checked_arrays(solution.arrays(), owner)
    figures = solution.figures()
    if not isinstance(figures, Mapping):
        raise InputError(f"the figures of {owner}", kind_words(figures), "a mapping from names to numbers")
    for name, value in figures.items():
        _check_figure(owner, name, value)
    residual = float(solution.residual)
    return arrays, plain(figures) | {
        "status": solution.status.name,
        "residual": residual if math.isfinite(residual) else None,
        "cost": dict(solution.cost.counts),
    }


def _check_figure(owner: str, name: object, value: Any) -> None:
    if not isinstance(name, str) or name in OUTCOME:
        expected = f"a string other than {', '.join(OUTCOME)}, which the framework saves"
        raise InputError(f"the name of a figure of {owner}", value_words(name), expected)
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    large = isinstance(number, int) and abs(number) > LARGEST_COUNT
    if large or not (number is None or isinstance(number, bool | int | float | str)):
        expected = "a number of at most 64 bits, a flag, a string or None, to be saved"
        raise InputError(f"figure {name!r} of {owner}", value_words(value), expected)


def restored_solution(
    lower: LowerLevelSolver, problem: BilevelProblem, x: Array, arrays: Arrays, figures: dict[str, Any]
) -> LowerLevelSolution:
    """The solution that its solver restores from arrays and figures; it must have the same ones.

    Raises:
        InputError: if the solver refuses them, or does not return a solution that has them.
    """
    label = f"lower-level solver {lower.name!r}"
    field = f"the solution restored by {label}"
    try:
        solution = lower.restore(problem, x, dict(arrays), dict(figures))
    except InputError:
        raise
    except Exception as error:  # a solver may raise any exception for unexpected content
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(field, f"missing, since `restore` raised {reason}", "a solution or an InputError") from error
    if isinstance(solution, type) or not isinstance(solution, LowerLevelSolution):
        raise InputError(field, kind_words(solution), "a LowerLevelSolution")
    has_arrays, has_figures = saved_solution(solution, label)
    different = _difference(has_arrays, arrays) or _changed(has_figures, figures)
    if different:
        raise InputError(field, f"another than was saved ({different})", "one with the arrays and figures as saved")
    return solution


def _difference(here: Arrays, saved: Arrays) -> str:
    """The array or figure that differs, in words; empty if none does."""
    for name in here.keys() | saved.keys():
        one, other = here.get(name), saved.get(name)
        if one is None or other is None:
            return f"array {name!r} is {'missing' if one is None else 'new'}"
        if one is other:
            continue
        if (one.dtype, one.shape) != (other.dtype, other.shape) or one.tobytes() != other.tobytes():
            return f"array {name!r} differs"
    return ""


def _changed(here: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    for name in here.keys() | saved.keys():
        # As text, so that NaN equals NaN, and 1 differs from 1.0 and True.
        if name not in here or name not in saved or repr(here[name]) != repr(saved[name]):
            return f"figure {name!r} differs"
    return ""
