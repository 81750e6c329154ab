"""Contexts: several followers' MDPs that share x, as one MDP.

If context c has probability w_c and an MDP `M_c(x)` of its own, the leader's problem has the *direct sum* of these MDPs
as its follower: the states of all contexts side by side, block-diagonal transitions, and the initial distribution `Σ_c
w_c ρ_c`. No action leads from one context to another. So the direct sum's soft Bellman equation consists of all
contexts' equations, its optimal policy of theirs, and a draw of its first state draws the context. Therefore every
component that solves, differentiates or samples one MDP works for contexts without changes. Several followers that act
at the same time, each in an environment of its own, are the same problem with weights w_c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import numpy as np

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.mdp.transitions import direct_sum
from bilevelrl.occupancy import DenseOccupancy, Occupancy, SampledOccupancy
from bilevelrl.sampling.tabular_simulator import TabularSimulator
from bilevelrl.validation.arrays import Array, Indices, as_array, as_distribution, read_only
from bilevelrl.validation.errors import InputError, kind_words, value_words
from bilevelrl.validation.frozen import depending


def _contexts(value: Any) -> tuple[Any, ...]:
    try:
        contexts = tuple(value)
    except TypeError:
        raise InputError("contexts", kind_words(value), "a list of followers, such as ParametricMDPs") from None
    if not contexts:
        raise InputError("contexts", "empty", "at least one follower")
    for index, context in enumerate(contexts):
        if not isinstance(context, SupportsModel):
            expected = "a follower with a transition model (SupportsModel), such as a ParametricMDP"
            raise InputError(f"contexts[{index}]", kind_words(context), expected)
    return contexts


def _normalized(value: object, lower: ContextualMDP) -> Array:
    count = len(lower.contexts)
    weights = np.ones(count) if value is None else as_distribution("weights", value, count)
    return read_only(weights / weights.sum())


@attrs.frozen(eq=False, slots=False)
class ContextualMDP:
    """The direct sum of the followers of several contexts: `SupportsModel` and `SupportsSampling`.

    State s of context c is state `starts[c] + s` here. Transitions are stored as CSR, unless all contexts' are dense
    and the whole is small. A context of weight zero is never drawn and has no effect.

    Args:
        contexts: the followers, each a `SupportsModel` of the same x, such as a `ParametricMDP`. They must agree on
            discount, temperature and the number of actions; states, rewards, transitions, initial distributions and
            reference measures are their own.
        weights: w (C,), not negative, sum one. Default: uniform.
        example: a point (n,) at which every context is defined. Default: that of the first context that has one, else
            zero.

    Raises:
        InputError: if there is no context, the contexts disagree, or the weights are not a distribution.
    """

    occupancy_forms: ClassVar[tuple[type, ...]] = (DenseOccupancy, SampledOccupancy)

    contexts: tuple[Any, ...] = attrs.field(converter=_contexts)
    weights: Array = attrs.field(default=None, converter=depending(_normalized))  # type: ignore[misc]
    example: Any = None
    dimension: int = attrs.field(init=False)
    """n, the length of x."""
    _models: tuple[SoftMDP, ...] = attrs.field(init=False, repr=False)
    starts: Indices = attrs.field(init=False, repr=False)
    """(C + 1,) the first state of each context, and the number of all states."""
    _base: SoftMDP = attrs.field(init=False, repr=False)

    @dimension.default
    def _common_dimension(self) -> int:
        reason = "for all contexts, since they share x"
        dimension: int = _agreed("dimension", [int(context.dimension) for context in self.contexts], reason)
        return dimension

    @_models.default
    def _agreeing_models(self) -> tuple[SoftMDP, ...]:
        models = tuple(context.model(self._point()) for context in self.contexts)
        reason = "for all contexts, since their followers solve one soft Bellman equation"
        for field in ("discount", "temperature", "actions"):
            label = "number of actions" if field == "actions" else field
            _agreed(label, [getattr(model, field) for model in models], reason)
        return models

    @starts.default
    def _first_states(self) -> Indices:
        return np.cumsum([0, *(model.states for model in self._models)])

    @_base.default
    def _direct_sum(self) -> SoftMDP:
        models = self._models
        return SoftMDP(
            direct_sum([model.transitions for model in models]),
            np.concatenate([model.rewards for model in models]),
            models[0].discount,
            models[0].temperature,
            self._initial(models),
            _references(models),
        )

    def _point(self) -> Array:
        """The point at which the contexts are checked."""
        if self.example is not None:
            return as_array("example", self.example, (self.dimension,))
        own = (getattr(context, "example", None) for context in self.contexts)
        return np.asarray(next((point for point in own if point is not None), np.zeros(self.dimension)), float)

    def _initial(self, models: Sequence[SoftMDP]) -> Array:
        return np.concatenate([weight * model.initial for weight, model in zip(self.weights, models, strict=True)])

    def rows(self, context: int) -> slice:
        """The states of a context."""
        return slice(int(self.starts[context]), int(self.starts[context + 1]))

    def model(self, x: Array) -> SoftMDP:
        """`M_τ(x)`, the direct sum; the parts that do not depend on x are assembled once and kept."""
        models = [context.model(x) for context in self.contexts]
        fields: dict[str, Any] = {}
        if self._moved(models, "rewards"):
            fields["rewards"] = np.concatenate([model.rewards for model in models])
        if self._moved(models, "transitions"):
            fields["transitions"] = direct_sum([model.transitions for model in models], like=self._base.transitions)
        if self._moved(models, "initial"):
            fields["initial"] = self._initial(models)
        if self._moved(models, "reference"):
            fields["reference"] = _references(models)
        return self._base.replace(**fields)

    def _moved(self, models: Sequence[SoftMDP], field: str) -> bool:
        pairs = zip(models, self._models, strict=True)
        return any(getattr(now, field) is not getattr(then, field) for now, then in pairs)

    def simulator(self, x: Array) -> TabularSimulator:
        """A sampler of the direct sum, whose first states draw the context; the trajectories of a group share one."""
        return TabularSimulator(self.model(x), contexts=self.starts)

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) the sum of the contexts' pullbacks, each applied to its own rows of the occupancy."""
        measure = occupancy.dense(self._base.states, self._base.actions)
        gradient = np.zeros(self.dimension)
        for index, context in enumerate(self.contexts):
            rows = self.rows(index)
            part = DenseOccupancy(
                measure.weights[rows],
                None if measure.continuation is None else measure.continuation[rows],
                None if measure.initial is None else self.weights[index] * measure.initial[rows],
            )
            gradient += context.pullback(x, part)
        return gradient

    def restrict(self, x: Array, solution: Any, context: int) -> Any:
        """A context's own part of a solution at x, by the solution's method `restrict(lower, x, rows)`.

        Status, residual and cost are those of the whole solution.
        """
        restrict = getattr(solution, "restrict", None)
        if restrict is None:
            expected = "a solution with a method restrict(lower, x, rows), such as a TabularSolution"
            raise InputError("solution", kind_words(solution), expected)
        return restrict(self.contexts[context], x, self.rows(context))


def _references(models: Sequence[SoftMDP]) -> Array | None:
    """μ of the direct sum: None if no context has one; otherwise ones for the contexts without one."""
    if all(model.reference is None for model in models):
        return None
    return np.concatenate(
        [np.ones_like(model.rewards) if model.reference is None else model.reference for model in models]
    )


def _agreed(label: str, values: Sequence[Any], reason: str) -> Any:
    """The one value that all contexts have."""
    for index, value in enumerate(values):
        if value != values[0]:
            field = f"the {label} of contexts[{index}]"
            expected = f"{value_words(values[0])}, as of contexts[0]: one {label} {reason}"
            raise InputError(field, value_words(value), expected)
    return values[0]
