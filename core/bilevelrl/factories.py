"""Runs from their directories, components by their names, and the exact objective with its gradient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevelrl.execution.workers import Progress
from bilevelrl.mdp.newton import soft_policy_iteration
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.outer_loop import StepFailed, quietly
from bilevelrl.plugins import discovery
from bilevelrl.plugins.components import Kind, Registry
from bilevelrl.plugins.configuration import build, options_of
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.exact import implicit_gradient
from bilevelrl.protocols import HyperGradientEstimator, LowerLevelSolver, Status, UpperLevelOptimizer
from bilevelrl.runs.algorithm import Algorithm
from bilevelrl.runs.run import Run
from bilevelrl.runs.seeds import Plan, run_seeds
from bilevelrl.storage.directory_lock import directory_words
from bilevelrl.storage.experiment import ROLES, Experiment
from bilevelrl.storage.run_directory import read_checkpoint, read_experiment, seed_directory, seeds_in
from bilevelrl.validation.arrays import Array, all_finite
from bilevelrl.validation.errors import IncompatibleError, InputError, as_path, kind_words
from bilevelrl.validation.fields import check_positive
from bilevelrl.validation.notices import AccuracyWarning
from bilevelrl.validation.saved import check_table

if TYPE_CHECKING:
    from bilevelrl.execution.workers import Jobs

# An error of the values changes log π by at most twice as much over τ: above this the policy's fourth digit is
# uncertain.
ROUGH = 1e-4


def load_run(
    directory: str | Path, *, problem: BilevelProblem | None = None, algorithm: Algorithm | None = None
) -> Run:
    """The run in a directory, finished or not, from its last good checkpoint.

    Args:
        directory: what `Run.save`, `Algorithm.run(out=…)` or `bilevelrl run --out` wrote.
        problem: needed for a problem composed in Python, since the directory records only its name.
        algorithm: needed for components that no plugin has registered.

    Raises:
        InputError: if there is no run, or it is damaged.
    """
    path = as_path("directory", directory)
    experiment = read_experiment(path)
    problem, algorithm = _rebuilt(experiment, problem, algorithm)
    found, _ = read_checkpoint(path, problem, algorithm.lower)
    if found is None:
        raise InputError(directory_words(path), "without a checkpoint", "one that a run was saved to")
    return Run.restored(problem, algorithm, experiment.settings, found)


def resume_run(directory: str | Path, **options: Any) -> Run:
    """Resume the run in a directory, with the problem and the algorithm of its `experiment.toml`.

    Args:
        directory: what `Algorithm.run(out=…)` or `bilevelrl run --out` wrote.
        options: those of `Algorithm.resume`, such as `iterations`.
    """
    path = as_path("directory", directory)
    problem, algorithm = _rebuilt(read_experiment(path), None, None)
    return algorithm.resume(problem, path, **options)


def resume_seeds(
    directory: str | Path,
    *,
    iterations: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    jobs: Jobs | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Resume all the runs in a directory of several seeds; finished runs are only read.

    Args:
        directory: what `Algorithm.run_seeds(out=…)` or `bilevelrl run --seeds N --out` wrote.
        iterations: see `Algorithm.resume`.
        checkpoint_every: see `Algorithm.run`; None: as before.
        checkpoint_seconds: see `Algorithm.run`; None: as before.
        jobs: the workers that do the runs; see `use_jobs`.
        progress: see `Algorithm.run_seeds`.

    Raises:
        InputError: if there are no runs, or if one of them cannot be resumed or has made more iterations than
            requested.
    """
    path = as_path("directory", directory)
    seeds = seeds_in(path)
    if not seeds:
        raise InputError(directory_words(path), "without runs", "one that several seeds were saved to")
    plan = Plan(iterations, None, 0.0, path, checkpoint_every, checkpoint_seconds, begun=True)
    problem, algorithm = _rebuilt(read_experiment(seed_directory(path, seeds[0])), None, None)
    return run_seeds(algorithm, problem, seeds, plan, jobs, progress)


def _rebuilt(
    experiment: Experiment, problem: BilevelProblem | None, algorithm: Algorithm | None
) -> tuple[BilevelProblem, Algorithm]:
    if problem is None or algorithm is None:
        known = discovery.registry()
        problem = compose_problem(experiment, known) if problem is None else problem
        algorithm = compose_algorithm(experiment, known) if algorithm is None else algorithm
    return problem, algorithm


def problem(name: str, **options: Any) -> BilevelProblem:
    """The registered problem of that name, with these options; `bilevelrl list problems` shows the names."""
    made: BilevelProblem = discovery.registry().create(Kind.PROBLEM, name, options)
    return made


def algorithm(name: str, **options: Any) -> Algorithm:
    """The registered recipe of that name, with these options, as an `Algorithm`."""
    made: Algorithm = discovery.registry().create(Kind.ALGORITHM, name, options)
    return made


def lower_level_solver(name: str, **options: Any) -> LowerLevelSolver:
    """The registered lower-level solver of that name, configured."""
    made: LowerLevelSolver = discovery.registry().create(Kind.LOWER_LEVEL_SOLVER, name, options)
    return made


def hypergradient_estimator(name: str, **options: Any) -> HyperGradientEstimator:
    """The registered hyper-gradient estimator of that name, configured."""
    made: HyperGradientEstimator = discovery.registry().create(Kind.HYPERGRADIENT_ESTIMATOR, name, options)
    return made


def upper_level_optimizer(name: str, **options: Any) -> UpperLevelOptimizer:
    """The registered upper-level optimizer of that name, configured."""
    made: UpperLevelOptimizer = discovery.registry().create(Kind.UPPER_LEVEL_OPTIMIZER, name, options)
    return made


def value_and_gradient(problem: BilevelProblem, x: object, *, tolerance: float = 1e-12) -> tuple[float, Array]:
    """`φ(x) = f(x, π*(x))` and the exact `∇φ(x)`, for `scipy.optimize.minimize(..., jac=True)` or to check other
    results.

    Soft policy iteration to `‖V − V*‖∞ ≤ tolerance` (or to rounding), then one adjoint solve. If γ is so near one that
    rounding may change the follower's policy, an `AccuracyWarning` gives the guaranteed accuracy.

    Args:
        problem: any problem with a transition model and an objective of the policy.
        x: (n,).
        tolerance: the follower's accuracy.

    Raises:
        InputError: if x is not a finite vector of length n, or the problem offers no model or no objective of the
            policy.
        StepFailed: if a value is not finite.
    """
    check_positive("tolerance", tolerance)
    if not isinstance(problem, BilevelProblem):
        raise InputError("problem", kind_words(problem), "a BilevelProblem, such as bilevelrl.problem(name)")
    _check_offers("a transition model", problem, problem.lower, SupportsModel)
    _check_offers("an objective of the policy", problem, problem.objective, PolicyObjective)
    point = problem.point(x)
    with quietly():
        solution = soft_policy_iteration(problem.lower.model(point), tolerance=tolerance)
        if not (solution.status.usable and math.isfinite(solution.residual)):
            raise StepFailed(Status.NON_FINITE, "the exact solution of the follower", 0)
        hyper = implicit_gradient(problem, point, solution)
        for part in ("direct", "implicit"):
            check_table(f"the gradient's {part} part from problem {problem.name!r}", getattr(hyper, part), point.shape)
        if not (hyper.status.usable and math.isfinite(hyper.objective) and all_finite(hyper.gradient)):
            raise StepFailed(Status.NON_FINITE, "the exact gradient", 0)
    if solution.error_bound > max(tolerance, ROUGH * solution.model.temperature):
        bound = f"the follower's values are within {solution.error_bound:.2g} of V*, not within {tolerance:g}"
        warnings.warn(f"{bound}; {solution.status.advice}", AccuracyWarning, stacklevel=2)
    return hyper.objective, hyper.gradient


def _check_offers(what: str, problem: BilevelProblem, offered: object, wanted: type) -> None:
    if not isinstance(offered, wanted):
        has = f"problem {problem.name!r} offers a {type(offered).__name__}"
        raise IncompatibleError(f"the exact gradient needs {what} ({wanted.__name__}); {has}")


def compose(experiment: Experiment, registry: Registry | None = None) -> tuple[BilevelProblem, Algorithm]:
    """The problem and the algorithm that the experiment's tables name, by default from this process's registry.

    Raises:
        InputError: if a name is missing or not registered, or a component rejects an option.
    """
    known = discovery.registry() if registry is None else registry
    return compose_problem(experiment, known), compose_algorithm(experiment, known)


def compose_problem(experiment: Experiment, registry: Registry) -> BilevelProblem:
    """The problem that the experiment's table names."""
    name, options = experiment.entries("problem")
    if name is None:
        raise InputError("problem.name", "missing", "the name of a problem; see `bilevelrl list problems`")
    problem: BilevelProblem = registry.create(Kind.PROBLEM, name, options)
    return problem


def compose_algorithm(experiment: Experiment, registry: Registry) -> Algorithm:
    """The recipe with the changes of its components, or the three components composed."""
    recipe, options = experiment.entries("algorithm")
    base: Algorithm | None = None
    if recipe is not None:
        base = registry.create(Kind.ALGORITHM, recipe, options)
    elif options:
        raise InputError(f"option {next(iter(options))!r} of the algorithm", "given", "an algorithm's name too")
    components: dict[str, Any] = {}
    for role, kind in ROLES.items():
        name, changes = experiment.entries(role)
        if name is not None:
            components[role] = registry.create(kind, name, changes)
        elif base is not None:
            component = getattr(base, role)
            components[role] = build(type(component), options_of(component) | changes) if changes else component
        else:
            raise InputError(f"{role}.name", "missing", "the name of an algorithm, or of all three components")
    return Algorithm(**components, name=_algorithm_name(base, components))


def _algorithm_name(base: Algorithm | None, components: Mapping[str, Any]) -> str:
    if base is not None and all(type(getattr(base, role)) is type(components[role]) for role in ROLES):
        return base.name
    return " + ".join(component.name for component in components.values())
