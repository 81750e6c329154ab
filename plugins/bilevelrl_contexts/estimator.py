"""Any hyper-gradient estimator, context by context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_contexts.answers import Answer, below
from bilevelrl_contexts.inner import (
    SEVERITY,
    OfInner,
    Question,
    check_contexts,
    is_mapping,
    is_sum,
    problem_of,
    stream_or_idle,
    streams,
    worst,
)


@attrs.frozen
class PerContextEstimator:
    """Differentiates each context's objective in a separate task for the current workers (`bilevelrl.use_jobs`).

        ∇φ(x) = Σ_c w_c ∇φ_c(x)

    with `φ_c = f_c(x, π*_c(x))`; likewise the direct part, the implicit part, the objective and the signed occupancy
    `w_c r̄_c` in the rows of c. Residual and status are the worst, counts the sum over the contexts. A stochastic
    estimator draws a batch for each context, not one for all: strata, whose errors are independent,
    `SE² = Σ_c w_c² SE_c²`. Contexts with weight zero are skipped. A problem without contexts, or with an objective that
    is not a sum over them, is differentiated by the inner estimator.

    Args:
        estimator: the name of a hyper-gradient estimator.
        options: its options.
    """

    name: ClassVar[str] = "per-context"
    requires: ClassVar[type] = OfInner(bl.mdp.SupportsModel)  # type: ignore[assignment]  # a type, on either side
    requires_objective: ClassVar[type] = OfInner(bl.objectives.PolicyObjective)  # type: ignore[assignment]
    accepts: ClassVar[type] = OfInner(bl.mdp.TabularSolution)  # type: ignore[assignment]

    estimator: str = attrs.field(default="implicit", validator=attrs.validators.instance_of(str))
    options: Mapping[str, Any] = attrs.field(factory=dict, validator=is_mapping)
    inner: Any = attrs.field(init=False, eq=False, repr=False)

    @inner.default
    def _inner(self) -> bl.HyperGradientEstimator:
        return bl.hypergradient_estimator(self.estimator, **self.options)

    @property
    def tags(self) -> bl.Tags:
        """The tags of the inner estimator."""
        declared: bl.Tags = self.inner.tags
        return declared

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: Any,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)`. `carry` has each context's own carry and its last estimate, from which the next call starts."""
        lower = problem.lower
        if not (isinstance(lower, bl.problems.ContextualMDP) and is_sum(problem)):
            whole: bl.HyperGradient = self.inner.estimate(problem, x, solution, previous, rng)
            return whole
        check_contexts(f"estimator {self.name!r}", self.inner, problem)
        given, count = Answer.of(solution), len(lower.contexts)
        before = [None] * count if previous is None else _remembered(previous)
        asked = [context for context in range(count) if lower.weights[context] > 0]
        drawn = streams(self.inner, rng, count)
        tasks = [
            (context, given.of_context(lower.rows(context), context), before[context], drawn[context])
            for context in asked
        ]
        answers = bl.execution.parallel_map(_estimate, (problem, Question(self.inner, x)), tasks)
        parts: list[bl.HyperGradient | None] = [None] * count
        for context, answer in zip(asked, answers, strict=True):
            parts[context] = answer
        weights = [float(lower.weights[context]) for context in asked]
        residuals = [part.residual for part in answers if part.residual is not None]
        return bl.HyperGradient(
            _weighted(weights, [part.direct for part in answers]),
            _weighted(weights, [part.implicit for part in answers]),
            float(sum(weight * part.objective for weight, part in zip(weights, answers, strict=True))),
            _occupancy(lower, {context: part.occupancy for context, part in zip(asked, answers, strict=True)}),
            bl.Cost().plus(*(part.cost for part in answers)),
            worst([part.status for part in answers]),
            residual=float(np.max(residuals)) if residuals else None,
            standard_error=_standard_error(weights, answers),
            carry=_memory(x, parts),
        )


Task = tuple[int, Answer, bl.HyperGradient | None, np.random.Generator | None]


def _estimate(shared: tuple[bl.BilevelProblem, Question], task: Task) -> bl.HyperGradient:
    """One context's hyper-gradient, with its occupancy as a table."""
    (problem, question), (context, given, before, stream) = shared, task
    own, x = problem_of(problem, context), question.x
    solution = given.rebuilt(own.lower, x)
    hyper: bl.HyperGradient = question.component.estimate(own, x, solution, before, stream_or_idle(stream))
    if hyper.occupancy is None:
        return hyper
    return attrs.evolve(hyper, occupancy=hyper.occupancy.dense(*given.tables["policy"].shape))


def _weighted(weights: Sequence[float], vectors: Sequence[bl.Array]) -> bl.Array:
    """`Σ_c w_c v_c`, in the order of the contexts."""
    sums = np.zeros_like(vectors[0])
    for weight, vector in zip(weights, vectors, strict=True):
        sums += weight * vector
    return sums


def _standard_error(weights: Sequence[float], parts: Sequence[bl.HyperGradient]) -> bl.Array | None:
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    if len(errors) < len(parts):
        return None
    return np.asarray(np.sqrt(_weighted([weight**2 for weight in weights], [error**2 for error in errors])))


def _occupancy(lower: bl.problems.ContextualMDP, measures: Mapping[int, Any]) -> bl.occupancy.DenseOccupancy | None:
    """The signed occupancy of the direct sum whose pullback is `Σ_c w_c` times the contexts' own."""
    if any(measure is None for measure in measures.values()):
        return None

    def stacked(name: str, weighted: bool) -> Any:
        tables = {context: getattr(measure, name) for context, measure in measures.items()}
        known = {context: table for context, table in tables.items() if table is not None}
        if not known:
            return None
        whole = np.zeros((int(lower.starts[-1]), *next(iter(known.values())).shape[1:]))
        for context, table in known.items():
            whole[lower.rows(context)] = lower.weights[context] * table if weighted else table
        return whole

    return bl.occupancy.DenseOccupancy(
        stacked("weights", True), stacked("continuation", False), stacked("initial", False)
    )


def _memory(x: bl.Array, parts: Sequence[bl.HyperGradient | None]) -> dict[str, bl.Array]:
    """The state for the next call, as arrays for a checkpoint; NaN for a context that was skipped."""
    figures = np.full((4, len(parts)), np.nan)
    gradients = np.full((2, len(parts), x.size), np.nan)
    carry: dict[str, bl.Array] = {}
    for context, part in enumerate(parts):
        if part is None:
            continue
        residual = np.nan if part.residual is None else part.residual
        figures[:, context] = part.objective, residual, part.residual is not None, SEVERITY.index(part.status)
        gradients[:, context] = part.direct, part.implicit
        carry |= {f"{context}/{name}": np.asarray(array) for name, array in part.carry.items()}
    return carry | {"figures": figures, "gradients": gradients}


def _remembered(hyper: bl.HyperGradient) -> list[bl.HyperGradient | None]:
    """Each context's last hyper-gradient, without its occupancy, cost and standard error."""
    figures, gradients = hyper.carry["figures"], hyper.carry["gradients"]
    parts: list[bl.HyperGradient | None] = []
    for context in range(figures.shape[1]):
        objective, residual, has_residual, status = figures[:, context]
        if np.isnan(status):
            parts.append(None)
            continue
        parts.append(
            bl.HyperGradient(
                gradients[0, context],
                gradients[1, context],
                float(objective),
                None,
                bl.Cost(),
                SEVERITY[int(status)],
                residual=float(residual) if has_residual else None,
                carry=below(hyper.carry, context),
            )
        )
    return parts
