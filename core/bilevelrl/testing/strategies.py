"""Hypothesis strategies: MDPs, policies, followers that depend on x, objectives and bilevel problems.

Every argument is optional and restricts what is drawn. A failing example shrinks to a small problem with simple
numbers, whose `repr` can be pasted into a test; see `bilevelrl.testing.source`.

    @given(testing.bilevel_problems(max_states=3, temperature=1.0))
    def test_my_estimator(problem): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

import bilevelrl as bl
from bilevelrl.testing.drawing import (
    EITHER,
    HALVES,
    QUARTERS,
    SHORT_DISCOUNTS,
    WEIGHTS,
    MDPOptions,
    Numbers,
    Parts,
    distributions,
    drawn_entries,
    drawn_lower,
    drawn_tables,
    mdp_of,
)
from bilevelrl.testing.drawn import DrawnBilevelProblem, TableLoss
from bilevelrl.validation.errors import kind_words, value_words
from bilevelrl.validation.fields import check_count

T = TypeVar("T")


def soft_mdps(
    *,
    max_states: int = 5,
    max_actions: int = 3,
    discount: Numbers = None,
    temperature: Numbers = None,
    sparse: bool | None = None,
    reference: bool | None = None,
    reachable: bool = False,
) -> st.SearchStrategy[bl.SoftMDP]:
    """Entropy- and KL-regularised MDPs, dense and sparse, whose `repr` rebuilds them.

    Rows of P are deterministic, noisy, or nearly deterministic; states may be absorbing, or never entered; rewards may
    be equal, and are sometimes a hundred times as large. The simplest: one state, one action, no reward, γ = 0, τ = 1.

    Args:
        max_states: S is drawn from 1 to this.
        max_actions: A is drawn from 1 to this.
        discount: γ in [0, 1), or a strategy. Default: 0, 0.5, 0.9, 0.99, and any float up to 0.99.
        temperature: τ > 0, or a strategy. Default: 1, 0.1, 10, and from 0.05 to 10 in a logarithmic scale.
        sparse: store P as a CSR array, or as an array. Default: either.
        reference: whether there is a reference measure μ. Default: either.
        reachable: ρ is positive in every state.

    Raises:
        InputError: naming the argument, the value and what was expected.
    """
    options = MDPOptions(
        max_states=max_states,
        max_actions=max_actions,
        discount=discount,
        temperature=temperature,
        sparse=sparse,
        reference=reference,
        reachable=reachable,
    )
    return _drawn(lambda draw: mdp_of(drawn_tables(draw, options)))


def parametric_mdps(
    *,
    parts: Parts = None,
    linear: bool | None = None,
    dimension: int | None = None,
    max_states: int = 5,
    max_actions: int = 3,
    discount: Numbers = None,
    temperature: Numbers = None,
    sparse: bool | None = None,
    reference: bool | None = None,
    reachable: bool = False,
) -> st.SearchStrategy[bl.ParametricMDP]:
    """Followers whose MDP depends on x, whose `repr` rebuilds them.

    Parts read all of x or, through `Slice`, a block of it; blocks may overlap, and entries of x may stay unused.

    Args:
        parts: which of "rewards", "transitions", "initial" depend on x: one or several. Default: any of them.
        linear: rewards that depend on x do so linearly (True), or through a tanh (False). Default: either.
        dimension: n, the length of x. Default: as the parts need, with up to two entries more.
        max_states: as for `soft_mdps`, like all that follow.
        max_actions: A is drawn from 1 to this.
        discount: γ.
        temperature: τ.
        sparse: how P is stored; features are sometimes sparse too if it is.
        reference: whether there is a μ.
        reachable: ρ is positive in every state, at every x.

    Raises:
        InputError: naming the argument, the value and what was expected.
    """
    options = MDPOptions(
        parts=parts,
        linear=linear,
        dimension=dimension,
        max_states=max_states,
        max_actions=max_actions,
        discount=discount,
        temperature=temperature,
        sparse=sparse,
        reference=reference,
        reachable=reachable,
    )
    return _drawn(lambda draw: drawn_lower(draw, options))


def points(dimension: int) -> st.SearchStrategy[bl.Array]:
    """x (n,), multiples of 1/4 from −7/4 to 2. Raises `InputError` if `dimension` is not a positive integer."""
    check_count("dimension", dimension)
    return _drawn(lambda draw: drawn_entries(draw, (dimension,), QUARTERS))


def policies(states: int, actions: int) -> st.SearchStrategy[bl.Array]:
    """Policies (S, A): in each state uniform, deterministic, nearly so (to 1e-12), or anything between.

    Raises:
        InputError: if `states` or `actions` is not a positive integer.
    """
    check_count("states", states)
    check_count("actions", actions)
    return _drawn(lambda draw: np.array([_drawn_policy_row(draw, actions) for _ in range(states)]))


def policy_objectives(lower: Any, *, bounded: bool = False) -> st.SearchStrategy[Any]:
    """The leader's objectives of a follower's policy, including returns in a model that depends on x too.

    They are quadratic with and without targets, the return in a fixed MDP or in `lower` itself, the log-likelihood of
    demonstrations, and weighted sums.

    Args:
        lower: the follower, a `SupportsModel`: it gives the shapes.
        bounded: leave out the log-likelihood, which is infinite if the follower never acts as demonstrated; rounding
            causes this at low temperatures.

    Raises:
        InputError: naming the argument, the value and what was expected.
    """
    kinds = _policy_objectives(bounded)
    _check_lower(lower)
    return _drawn(lambda draw: _drawn_policy_objective(draw, lower, kinds))


def trajectory_objectives(
    lower: Any, *, max_horizon: int = 2, max_trajectories: int = 2
) -> st.SearchStrategy[bl.objectives.TrajectoryObjective]:
    """The leader's deterministic objectives of a few short trajectories, whose exact expectation is a short sum.

    They are `PreferenceObjective`s whose labeller answers with probabilities, if the follower's rewards depend on x and
    pairs are allowed, and `TableLoss`es.

    Args:
        lower: the follower, a `SupportsModel`: it gives the shapes.
        max_horizon: H is drawn from 1 to this.
        max_trajectories: I is drawn from 1 to this; preferences take two.

    Raises:
        InputError: naming the argument, the value and what was expected.
    """
    check_count("max_horizon", max_horizon)
    check_count("max_trajectories", max_trajectories)
    _check_lower(lower)
    return _drawn(lambda draw: _drawn_trajectory_objective(draw, lower, max_horizon, max_trajectories))


def bilevel_problems(
    objective: str = "policy",
    *,
    bounded: bool = False,
    max_horizon: int = 2,
    max_trajectories: int = 2,
    parts: Parts = None,
    linear: bool | None = None,
    dimension: int | None = None,
    max_states: int | None = None,
    max_actions: int | None = None,
    discount: Numbers = None,
    temperature: Numbers = None,
    sparse: bool | None = None,
    reference: bool | None = None,
    reachable: bool = False,
) -> st.SearchStrategy[bl.BilevelProblem]:
    """Bilevel problems whose `start` is the point of interest x, and whose `repr` rebuilds them.

    Args:
        objective: "policy", or "trajectory": rewards that depend on x and an objective of trajectories.
        bounded: as for `policy_objectives`.
        max_horizon: as for `trajectory_objectives`.
        max_trajectories: as for `trajectory_objectives`.
        parts: as for `parametric_mdps`, like all that follow; "trajectory" allows ("rewards",) only.
        linear: whether rewards are linear in x.
        dimension: n.
        max_states: default: 5; for "trajectory" 3.
        max_actions: default: 3; for "trajectory" 2.
        discount: γ; default for "trajectory": at most 0.9.
        temperature: τ.
        sparse: how P is stored.
        reference: whether there is a μ.
        reachable: ρ is positive in every state.

    Raises:
        InputError: naming the argument, the value and what was expected.
    """
    if objective not in ("policy", "trajectory"):
        raise bl.InputError("objective", value_words(objective), "'policy' or 'trajectory'")
    kinds, of_trajectories = _policy_objectives(bounded), objective == "trajectory"
    check_count("max_horizon", max_horizon)
    check_count("max_trajectories", max_trajectories)
    if of_trajectories:
        parts, discount = ("rewards",) if parts is None else parts, SHORT_DISCOUNTS if discount is None else discount
    options = MDPOptions(
        parts=parts,
        linear=linear,
        dimension=dimension,
        max_states=(3 if of_trajectories else 5) if max_states is None else max_states,
        max_actions=(2 if of_trajectories else 3) if max_actions is None else max_actions,
        discount=discount,
        temperature=temperature,
        sparse=sparse,
        reference=reference,
        reachable=reachable,
    )
    if of_trajectories and options.parts != ("rewards",):
        raise bl.InputError("parts", value_words(options.parts), "('rewards',) for an objective of trajectories")

    def drawn_problem(draw: st.DrawFn) -> bl.BilevelProblem:
        lower = drawn_lower(draw, options)
        start = drawn_entries(draw, (lower.dimension,), QUARTERS)
        if of_trajectories:
            judge = _drawn_trajectory_objective(draw, lower, max_horizon, max_trajectories)
        else:
            judge = _drawn_policy_objective(draw, lower, kinds)
        return DrawnBilevelProblem(lower, judge, start)

    return _drawn(drawn_problem)


@st.composite
def _drawn(draw: st.DrawFn, function: Callable[[st.DrawFn], T]) -> T:
    return function(draw)


def _check_lower(lower: object) -> None:
    if not isinstance(lower, bl.mdp.SupportsModel):
        raise bl.InputError("lower", kind_words(lower), "a follower with a model, such as a ParametricMDP")


def _policy_objectives(bounded: bool) -> tuple[str, ...]:
    if not isinstance(bounded, bool):
        raise bl.InputError("bounded", value_words(bounded), "True or False")
    return _POLICY_OBJECTIVES[:-1] if bounded else _POLICY_OBJECTIVES


_SCALES = st.sampled_from((1.0, 0.5, 2.0, 0.0))
_STEEPNESS = st.sampled_from((1.0, 0.5, 2.0))
_WEIGHINGS = st.sampled_from((1.0, 0.5, 0.9))
_POLICY_OBJECTIVES = ("quadratic", "return", "return of the shared model", "sum", "log-likelihood")
_OF_A_SUM = ("quadratic", "return", "return of the shared model")
_TRUE_MDP = MDPOptions(
    max_states=1, max_actions=1, discount=None, temperature=1.0, sparse=False, reference=False, reachable=False
)


def _shape_of(lower: Any) -> tuple[int, int]:
    mdp = lower.model(np.zeros(lower.dimension))
    return mdp.states, mdp.actions


def _drawn_policy_objective(draw: st.DrawFn, lower: Any, kinds: tuple[str, ...]) -> Any:
    kind, shape = draw(st.sampled_from(kinds)), _shape_of(lower)
    if kind == "quadratic":
        x_target = drawn_entries(draw, (lower.dimension,), QUARTERS) if draw(EITHER) else None
        policy_target = drawn_entries(draw, shape, QUARTERS) if draw(EITHER) else None
        return bl.objectives.QuadraticObjective(draw(_SCALES), draw(_SCALES), x_target, policy_target)
    if kind == "return":
        return bl.objectives.ReturnObjective(mdp_of(drawn_tables(draw, _TRUE_MDP, shape)), draw(EITHER))
    if kind == "return of the shared model":
        return bl.objectives.ReturnObjective(lower, draw(EITHER))
    if kind == "log-likelihood":
        return bl.objectives.LogLikelihoodObjective(drawn_entries(draw, shape, WEIGHTS))
    kinds = _OF_A_SUM
    return bl.objectives.WeightedSum([(draw(_SCALES), _drawn_policy_objective(draw, lower, kinds)) for _ in range(2)])


def _drawn_trajectory_objective(draw: st.DrawFn, lower: Any, max_horizon: int, max_trajectories: int) -> Any:
    horizon, shape = draw(st.integers(1, max_horizon)), _shape_of(lower)
    rewards = getattr(lower, "rewards", None)
    if max_trajectories > 1 and isinstance(rewards, bl.parametric.ParametricArray) and draw(EITHER):
        discounts = draw(_WEIGHINGS), draw(_WEIGHINGS)
        hidden = drawn_entries(draw, shape, QUARTERS)
        labeller = bl.objectives.RewardLabeller(hidden, noisy=False, steepness=draw(_STEEPNESS), discount=discounts[0])
        return bl.objectives.PreferenceObjective(rewards, labeller, horizon, discounts[1])
    table, x_weights = drawn_entries(draw, shape, QUARTERS), drawn_entries(draw, (lower.dimension,), HALVES)
    return TableLoss(table, x_weights, horizon, draw(st.integers(1, max_trajectories)), draw(EITHER))


# Policies.

_POWERS = np.array((0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0))


def _drawn_policy_row(draw: st.DrawFn, actions: int) -> bl.Array:
    kind = draw(st.integers(0, actions + 2))
    if kind == 0:
        return np.full(actions, 1.0 / actions)
    if kind <= actions:
        return np.asarray(np.eye(actions)[kind - 1])
    if kind == actions + 1:
        return distributions(drawn_entries(draw, (actions,), WEIGHTS))
    return distributions(10.0 ** -drawn_entries(draw, (actions,), _POWERS))
