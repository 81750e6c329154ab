"""Any lower-level solver, context by context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_contexts.answers import Answer
from bilevelrl_contexts.inner import OfInner, Question, check_contexts, is_mapping, problem_of, stream_or_idle, streams


@attrs.frozen
class PerContextSolver:
    """Solves each context's follower in a separate task for the current workers (`bilevelrl.use_jobs`).

    The answer is that of the direct sum: the contexts' rows one after another, the largest residual, the worst status.
    Counts are the sum over the contexts: a context's backup is a pass over its own P, and a solve one of its own size.
    Each context stops when its own accuracy is met, while the direct sum continues for the slowest of them. A problem
    without contexts is solved by the inner solver.

    Args:
        solver: the name of a lower-level solver.
        options: its options.
    """

    name: ClassVar[str] = "per-context"
    requires: ClassVar[type] = OfInner(bl.mdp.SupportsModel)  # type: ignore[assignment]  # a type, on either side
    produces: ClassVar[type] = OfInner(bl.mdp.TabularSolution)  # type: ignore[assignment]

    solver: str = attrs.field(default="soft-policy-iteration", validator=attrs.validators.instance_of(str))
    options: Mapping[str, Any] = attrs.field(factory=dict, validator=is_mapping)
    inner: Any = attrs.field(init=False, eq=False, repr=False)

    @inner.default
    def _inner(self) -> bl.LowerLevelSolver:
        return bl.lower_level_solver(self.solver, **self.options)

    @property
    def tags(self) -> bl.Tags:
        """The tags of the inner solver."""
        declared: bl.Tags = self.inner.tags
        return declared

    def solve(
        self, problem: bl.Problem, x: bl.Array, warm_start: Any | None, rng: np.random.Generator
    ) -> bl.LowerLevelSolution:
        """The followers' solutions, each warm-started by its last one."""
        lower = problem.lower
        if not isinstance(lower, bl.problems.ContextualMDP):
            answer: bl.LowerLevelSolution = self.inner.solve(problem, x, warm_start, rng)
            return answer
        check_contexts(f"solver {self.name!r}", self.inner, problem)
        before = None if warm_start is None else Answer.of(warm_start)
        tasks = [
            (context, None if before is None else before.of_context(lower.rows(context), context), stream)
            for context, stream in enumerate(streams(self.inner, rng, len(lower.contexts)))
        ]
        answers = bl.execution.parallel_map(_solve, (problem, Question(self.inner, x)), tasks)
        joint: bl.LowerLevelSolution = Answer.joined(answers).rebuilt(lower, x)
        return joint

    def restore(
        self,
        problem: bl.Problem,
        x: bl.Array,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        figures: Mapping[str, Any],
    ) -> bl.LowerLevelSolution:
        """The solution of all contexts; what each of them carries is checked by the solver inside."""
        lower = problem.lower
        if not isinstance(lower, bl.problems.ContextualMDP):
            answer: bl.LowerLevelSolution = self.inner.restore(problem, x, arrays, figures)
            return answer
        kind = bl.mdp.TabularSolution if "values" in arrays else bl.sampling.SampledSolution
        joint: bl.LowerLevelSolution = kind.restored(problem, x, arrays, figures)
        whole = Answer.of(joint)
        for context in range(len(lower.contexts) if whole.carry else 0):
            own = problem_of(problem, context)
            part = whole.of_context(lower.rows(context), context).rebuilt(own.lower, x)
            self.inner.restore(own, x, part.arrays(), figures)
        return joint


def _solve(
    shared: tuple[bl.BilevelProblem, Question], task: tuple[int, Answer | None, np.random.Generator | None]
) -> Answer:
    """One context's solution."""
    (problem, question), (context, before, stream) = shared, task
    own, x = problem_of(problem, context), question.x
    warm_start = None if before is None else before.rebuilt(own.lower, x)
    return Answer.of(question.component.solve(own, x, warm_start, stream_or_idle(stream)))
