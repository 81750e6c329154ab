"""Solutions of a kind that core does not know: what cannot be saved or restored is refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from faults.runs import assert_same

PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)


@attrs.frozen(eq=False)
class Own:
    """A solution of mixed arrays whose policy is a function of observations."""

    inner: Any
    parts: Any
    numbers: Any
    residual: float
    status: bl.Status
    cost: bl.Cost

    def policy(self, observations: Any) -> bl.Array:
        return self.inner.policy[observations]

    def arrays(self) -> Any:
        return self.parts

    def figures(self) -> Any:
        return self.numbers


Restore = Callable[[Any, Any, Any, Any], Any]
ARRAYS = {
    "values": np.zeros(3),
    "half": np.arange(3, dtype=np.float32),
    "codes": np.array([2, 0, 1], np.int32),
    "seen": np.array([True, False, True]),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "none": np.zeros((0, 2)),
    "one": np.array(7, np.uint8),
}
FIGURES = {"calls": 3, "phase": -math.inf, "gap": math.nan, "mode": "warm", "on": True, "limit": None}


def solved(x: bl.Array) -> Any:
    return bl.lower_level_solver("soft-policy-iteration").solve(PROBLEM, x, None, np.random.default_rng(0))


def faithful(problem: Any, x: Any, arrays: Any, figures: Any) -> Any:
    return Own(solved(x), arrays, {name: figures[name] for name in FIGURES}, **bl.protocols.outcome(figures))


@attrs.frozen
class OwnSolver:
    """Answers with an `Own` of what these functions give."""

    name: ClassVar[str] = "own"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = Own
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    parts: Any = ARRAYS.copy
    numbers: Any = FIGURES.copy
    back: Restore = faithful

    def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: Any) -> Own:
        inner = solved(x)
        return Own(inner, self.parts(), self.numbers(), inner.residual, inner.status, inner.cost)

    def restore(self, problem: Any, x: bl.Array, arrays: Any, figures: Any) -> Any:
        return self.back(problem, x, arrays, figures)


@attrs.frozen
class Direct:
    """`∂f/∂x` at a policy that is a function of observations."""

    name: ClassVar[str] = "direct"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.LowerLevelSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased")

    def estimate(self, problem: Any, x: bl.Array, solution: Any, previous: Any, rng: Any) -> bl.HyperGradient:
        value, by_x, _ = problem.objective.value_and_gradients(x, solution.policy(np.arange(3)))
        return bl.HyperGradient(by_x, 0.0 * by_x, value, None, bl.Cost(), bl.Status.CONVERGED)


def algorithm(**options: Any) -> bl.Algorithm:
    return bl.Algorithm(OwnSolver(**options), Direct(), bl.upper_level_optimizer("gradient-descent", step_size=0.01))


def test_solution_of_any_kind_is_saved_resumed_and_returned_by_workers(tmp_path: Path) -> None:
    own = algorithm()
    whole = own.run(PROBLEM, iterations=6)
    own.run(PROBLEM, iterations=3, out=tmp_path / "run", checkpoint_every=1)
    resumed = own.resume(PROBLEM, tmp_path / "run", iterations=6)
    loaded = bl.load_run(tmp_path / "run", problem=PROBLEM, algorithm=own)
    (seeded,) = own.run_seeds(PROBLEM, seeds=[0], iterations=6)
    for run in (resumed, loaded, seeded):
        assert_same(run, whole)
        found = run.solution.arrays()
        assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
            name: (array.dtype, array.shape) for name, array in ARRAYS.items()
        }
        assert found["columns"].flags.f_contiguous


OBJECTS = np.array([{"a": 1}], dtype=object)
UNSAVEABLE: dict[str, tuple[dict[str, Any], str]] = {
    "objects": (
        {"parts": {"log": OBJECTS}},
        "array 'log' of the solution of lower-level solver 'own' is of type obj",
    ),
    "words": ({"parts": {"log": np.array(["a"])}}, "array 'log' of .* is of type <U1; expected numbers or flags"),
    "complex": ({"parts": {"log": np.ones(1, complex)}}, "array 'log' of .* is of type complex128; expected numbers"),
    "one name twice": (
        {"parts": [("a", np.zeros(1)), ("a", np.ones(1))]},
        "array 'a' of .* is there twice; expected one array of each name",
    ),
    "a name that is none": ({"parts": {3: np.zeros(1)}}, "the name of an array of .* is 3; expected a string"),
    "a list for a figure": (
        {"numbers": {"log": [1, 2]}},
        r"figure 'log' of .* is \[1, 2\]; expected a number of at most",
    ),
    "an object for a figure": ({"numbers": {"log": object()}}, "figure 'log' of .* is <object .*; expected a number"),
    "a figure beyond 64 bits": (
        {"numbers": {"log": 2**64}},
        "figure 'log' of .*; expected a number of at most 64",
    ),
    "a reserved figure": (
        {"numbers": {"status": 1}},
        "the name of a figure of .* is 'status'; expected a string other",
    ),
    "figures that are none": ({"numbers": [1]}, "the figures of the solution of .* is a list; expected a mapping"),
}


@pytest.mark.parametrize("what", UNSAVEABLE)
def test_solution_that_cannot_be_saved_is_refused_at_once_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    options, sentence = UNSAVEABLE[what]
    own = algorithm(**{name: lambda value=value: value for name, value in options.items()})
    with pytest.raises(bl.InputError, match=sentence):
        own.run(PROBLEM, iterations=10**9, out=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_solution_that_cannot_be_saved_any_more_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Its arrays change as the run goes on."""
    arrays, seen = dict(ARRAYS), list[int]()
    own = algorithm(parts=lambda: arrays)

    def spoil(state: Any) -> None:
        seen.append(state.iteration)
        if state.iteration == 3:
            arrays["log"] = OBJECTS

    with pytest.raises(bl.InputError, match="array 'log'"):
        own.run(PROBLEM, iterations=10, out=tmp_path, callback=spoil, checkpoint_every=2)
    del arrays["log"]
    assert seen[-1] == 3
    assert bl.load_run(tmp_path, problem=PROBLEM, algorithm=own).last.iteration == 2


def other(**changes: Any) -> Restore:
    """A `restore` whose solution differs in these parts."""

    def restore(problem: Any, x: Any, arrays: Any, figures: Any) -> Any:
        return attrs.evolve(faithful(problem, x, arrays, figures), **changes)

    return restore


def failing(*_: Any) -> Any:
    raise KeyError("codes")


FIELD = "the solution restored by lower-level solver 'own' is "
UNFAITHFUL: dict[str, tuple[Restore, str]] = {
    "nothing": (lambda *_: None, FIELD + "None; expected a LowerLevelSolution"),
    "its class": (lambda *_: Own, FIELD + "a type; expected a LowerLevelSolution"),
    "a table": (lambda *_: np.zeros(3), FIELD + "a ndarray; expected a LowerLevelSolution"),
    "an array less": (other(parts={}), FIELD + "another than was saved .array '.*' is missing"),
    "an array more": (other(parts={**ARRAYS, "b": np.zeros(1)}), FIELD + "another than was saved .array 'b' is new"),
    "another array": (other(parts={**ARRAYS, "half": np.ones(3, np.float32)}), "array 'half' differs"),
    "another type": (other(parts={**ARRAYS, "codes": np.array([2, 0, 1])}), "array 'codes' differs"),
    "another figure": (other(numbers={**FIGURES, "calls": 4}), "figure 'calls' differs"),
    "a flag for a number": (other(numbers={**FIGURES, "on": 1}), "figure 'on' differs"),
    "another residual": (other(residual=0.25), "figure 'residual' differs"),
    "another status": (other(status=bl.Status.STAGNATED), "figure 'status' differs"),
    "another cost": (other(cost=bl.Cost(backups=10**6)), "figure 'cost' differs"),
    "an error": (failing, FIELD + "missing, since `restore` raised KeyError: 'codes'; expected a solution"),
}


@pytest.mark.parametrize("what", UNFAITHFUL)
def test_restore_that_returns_something_else_is_refused_in_one_sentence(tmp_path: Path, what: str) -> None:
    back, sentence = UNFAITHFUL[what]
    algorithm().run(PROBLEM, iterations=2, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    own = algorithm()
    own = attrs.evolve(own, lower=attrs.evolve(own.lower, back=back))
    for attempt in (
        lambda: bl.load_run(tmp_path, problem=PROBLEM, algorithm=own),
        lambda: own.resume(PROBLEM, tmp_path, iterations=4),
    ):
        with pytest.raises(bl.InputError, match=sentence):
            attempt()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_solver_without_restore_is_refused_with_what_is_missing() -> None:
    @attrs.frozen
    class Forgetful:
        name: ClassVar[str] = "forgetful"
        requires: ClassVar[type] = bl.mdp.SupportsModel
        produces: ClassVar[type] = Own
        tags: ClassVar[bl.Tags] = bl.Tags("exact")

        def solve(self, problem: Any, x: Any, warm_start: Any, rng: Any) -> Any: ...

    with pytest.raises(bl.InputError, match="lower is a Forgetful without restore; expected a LowerLevelSolver"):
        bl.Algorithm(Forgetful(), Direct(), bl.upper_level_optimizer("gradient-descent"))


def test_summary_of_a_run_is_json_that_every_reader_takes(tmp_path: Path) -> None:
    """A measure that is not finite is a string there."""
    import json

    measured = attrs.evolve(PROBLEM, measures=lambda x, solution: {"gain": math.inf, "loss": math.nan})
    algorithm().run(measured, iterations=1, out=tmp_path)
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    figures = json.loads(text, parse_constant=lambda word: pytest.fail(word))["figures"]
    assert (figures["gain"], figures["loss"]) == (["Infinity"] * 2, ["NaN"] * 2)
