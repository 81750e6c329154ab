"""Drawn MDPs and bilevel problems, and how far rounding alone can move what the tests compare.

Hypothesis draws the structure (sizes, discount, temperature, kinds of transitions and rewards), which shrinks well; a
drawn seed fills in the numbers.

A `DrawnProblem` is a parametric MDP twice: as the library's `ParametricMDP`, and as plain NumPy functions of x that
share no code with it and also take complex x, so that a test may differentiate them exactly by a complex step.
"""

from __future__ import annotations

import types
from typing import Any

import attrs
import numpy as np
import scipy.sparse
from hypothesis import strategies as st

import bilevelrl as bl
from bilevelrl.testing import rounding

seeds = st.integers(0, 2**32 - 1)


def discounts(low: float = 0.0, high: float = 0.999) -> st.SearchStrategy[float]:
    corners = [g for g in (0.0, 0.5, 0.9, 0.99, 0.999) if low <= g <= high]
    return st.sampled_from(corners) | st.floats(low, high)


def temperatures(low: float = 1e-3, high: float = 10.0) -> st.SearchStrategy[float]:
    corners = [t for t in (1.0, 1e-3, 1e-2, 0.1, 10.0) if low <= t <= high]
    in_between = st.floats(np.log10(low), np.log10(high)).map(lambda e: float(np.clip(10.0**e, low, high)))
    return st.sampled_from(corners) | in_between


KERNELS = ("smooth", "narrow", "deterministic", "nearly deterministic", "slow")


def drawn_kernel(rng: np.random.Generator, kind: str, states: int, actions: int, unreachable: int) -> bl.Array:
    """P (S, A, S) of a kind; nothing leads into the last `unreachable` states, not even from themselves."""
    shape = (states, actions, states)
    target = np.eye(states)[rng.integers(states, size=shape[:2])]
    if kind == "smooth":
        kernel = rng.exponential(size=shape)
    elif kind == "narrow":
        kernel = np.where(rng.random(shape) < 0.4, rng.exponential(size=shape), 0.0) + 1e-3 * target
    elif kind == "deterministic":
        kernel = target
    elif kind == "nearly deterministic":
        kernel = target + 10.0 ** rng.uniform(-12, -2) * rng.exponential(size=shape)
    else:
        kernel = 0.95 * np.eye(states)[:, None, :] + 0.05 * target
    if unreachable:
        kernel[:, :, states - unreachable :] = 0.0
        kernel[kernel.sum(axis=2) == 0.0, 0] = 1.0
    return kernel / kernel.sum(axis=2, keepdims=True)


REWARDS = ("gaussian", "one goal", "ties", "zero")


def drawn_rewards(rng: np.random.Generator, kind: str, states: int, actions: int) -> bl.Array:
    """r (S, A) of a kind; "ties" means that all actions of a state earn the same."""
    rewards = np.zeros((states, actions))
    if kind == "gaussian":
        rewards = rng.normal(size=(states, actions))
    elif kind == "one goal":
        rewards[rng.integers(states)] = 1.0
    elif kind == "ties":
        rewards += rng.normal(size=(states, 1))
    return rewards


REFERENCES = (None, "policy", "measure")


def drawn_reference(rng: np.random.Generator, kind: str | None, states: int, actions: int) -> bl.Array | None:
    """μ (S, A): none, a policy, or a measure that is not normalised and spans six orders of magnitude."""
    if kind is None:
        return None
    if kind == "policy":
        return rng.dirichlet(np.ones(actions), size=states) * (1 - 1e-6) + 1e-6 / actions
    return 10.0 ** rng.uniform(-3, 3, size=(states, actions))


def drawn_policy(rng: np.random.Generator, states: int, actions: int) -> bl.Array:
    """A policy (S, A): anything from uniform to deterministic, differently in each state."""
    logits = rng.normal(size=(states, actions)) * 10.0 ** rng.uniform(-2, 4, size=(states, 1))
    policy = np.exp(logits - logits.max(axis=1, keepdims=True))
    return policy / policy.sum(axis=1, keepdims=True)


def stored_as(kernel: bl.Array, sparse: bool) -> Any:
    """P as the library takes it: an array (S, A, S), or a CSR array (S·A, S)."""
    return scipy.sparse.csr_array(kernel.reshape(-1, kernel.shape[2])) if sparse else kernel


@st.composite
def soft_mdps(
    draw: st.DrawFn,
    *,
    discount: st.SearchStrategy[float] | None = None,
    temperature: st.SearchStrategy[float] | None = None,
    reference: st.SearchStrategy[str | None] | None = None,
    sparse: st.SearchStrategy[bool] | None = None,
) -> bl.SoftMDP:
    """An entropy- or KL-regularised MDP, dense or sparse, from the whole range the library promises to serve."""
    states, actions = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    kind, rewards = draw(st.sampled_from(KERNELS)), draw(st.sampled_from(REWARDS))
    unreachable = draw(st.integers(0, states - 1)) if draw(st.booleans()) else 0
    scale = draw(st.sampled_from((1.0, 0.01, 100.0)))
    measure = draw(st.sampled_from(REFERENCES) if reference is None else reference)
    start = draw(st.sampled_from(("uniform", "one state", "any")))
    storage = draw(st.booleans() if sparse is None else sparse)
    gamma = draw(discounts() if discount is None else discount)
    tau = draw(temperatures() if temperature is None else temperature)
    rng = np.random.default_rng(draw(seeds))
    initial = {
        "uniform": None,
        "one state": np.eye(states)[rng.integers(states)],
        "any": rng.dirichlet(np.ones(states)),
    }[start]
    return bl.SoftMDP(
        stored_as(drawn_kernel(rng, kind, states, actions, unreachable), storage),
        scale * drawn_rewards(rng, rewards, states, actions),
        gamma,
        tau,
        initial,
        drawn_reference(rng, measure, states, actions),
    )


def drawn_values(mdp: bl.SoftMDP, rng: np.random.Generator) -> bl.Array:
    """Some v (S,), from far smaller to far larger than the rewards."""
    return rng.normal(size=mdp.states) * 10.0 ** rng.uniform(-2, 3)


def fixed(mdp: bl.SoftMDP) -> Any:
    """A problem whose follower does not depend on x: all that a lower-level solver looks at."""
    return types.SimpleNamespace(lower=types.SimpleNamespace(model=lambda x: mdp))


def solved(mdp: bl.SoftMDP) -> bl.mdp.TabularSolution:
    """The follower's answer, as exact as float64 allows: no tolerance stops the solver before rounding does."""
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-300)
    return solver.solve(fixed(mdp), np.zeros(1), None, np.random.default_rng(0))


# How far rounding can move things: the kit's own bounds, for a solution.


def value_error(solution: bl.mdp.TabularSolution) -> float:
    """`‖V − V*‖∞` of a solution."""
    return rounding.value_error(solution.model, solution.values, solution.residual)


def policy_error(solution: bl.mdp.TabularSolution) -> float:
    """`|log π − log π*|` of a solution."""
    return rounding.policy_error(solution.model, solution.values, solution.residual)


# Bilevel problems.


def _softmax(base: bl.Array, logits: Any) -> Any:
    """`base · exp(logits)`, normalised over the last axis; zero where `base` is."""
    largest = np.where(base > 0, logits.real, -np.inf).max(axis=-1, keepdims=True)
    weights = np.where(base > 0, base * np.exp(np.where(base > 0, logits - largest, 0.0)), 0.0)
    return weights / weights.sum(axis=-1, keepdims=True)


@attrs.frozen(eq=False, slots=False)
class DrawnProblem:
    """A follower that depends on x, as plain functions; `lower` is the same follower as the library has it.

    `r(x) = r⁰ + φx` or `r⁰ + tanh(φx)`; `P(x) ∝ P⁰ exp(φx)`; `ρ(x) ∝ ρ⁰ exp(φx)`, each with a block of x of its own or
    shared. A part whose features are zero everywhere is given to the library as a constant.
    """

    base_rewards: bl.Array
    base_kernel: bl.Array
    base_initial: bl.Array
    reward_features: bl.Array  # (S, A, n), zero outside the part's block
    kernel_features: bl.Array  # (S, A, S, n)
    initial_features: bl.Array  # (S, n)
    blocks: dict[str, slice]  # of x, for the parts that depend on it
    curved: bool
    sparse: bool
    discount: float
    temperature: float
    reference: bl.Array | None
    x: bl.Array

    @property
    def dimension(self) -> int:
        return int(self.x.size)

    def rewards(self, x: Any) -> Any:
        return self.base_rewards + (np.tanh(self.reward_features @ x) if self.curved else self.reward_features @ x)

    def kernel(self, x: Any) -> Any:
        return _softmax(self.base_kernel, self.kernel_features @ x)

    def initial(self, x: Any) -> Any:
        return _softmax(self.base_initial, self.initial_features @ x)

    def reward_jacobian(self, x: bl.Array) -> bl.Array:
        """(S, A, n)"""
        slope = 1 / np.cosh(self.reward_features @ x) ** 2 if self.curved else np.ones_like(self.base_rewards)
        return slope[..., None] * self.reward_features

    def kernel_jacobian(self, x: bl.Array) -> bl.Array:
        """(S, A, S, n): `∂P_sas' = P_sas' (φ_sas' − Σ_t P_sat φ_sat)`."""
        kernel = self.kernel(x)
        mean = np.einsum("sat,satn->san", kernel, self.kernel_features)
        return kernel[..., None] * (self.kernel_features - mean[:, :, None, :])

    def initial_jacobian(self, x: bl.Array) -> bl.Array:
        """(S, n)"""
        initial = self.initial(x)
        return initial[:, None] * (self.initial_features - initial @ self.initial_features)

    def action_value_jacobian(self, x: bl.Array, values: bl.Array) -> bl.Array:
        """`∂_x q(v) = J_r + γ J_P v` (S, A, n), at fixed v."""
        through_kernel = np.einsum("satn,t->san", self.kernel_jacobian(x), values)
        return self.reward_jacobian(x) + self.discount * through_kernel

    def kernel_slope(self, x: bl.Array, sizes: bl.Array) -> bl.Array:
        """`γ Σ_s' |J_P| · sizes` (S, A): the size of `∂_x q`'s part through P before anything cancels.

        Two things do: a constant in v drops out of `J_P v` (rows of J_P sum to zero), and in a nearly deterministic
        row `φ − Σ Pφ` is nearly zero. Neither drops out of the rounding.
        """
        kernel, features = self.kernel(x), np.abs(self.kernel_features)
        spread = kernel[..., None] * (features + np.einsum("sat,satn->san", kernel, features)[:, :, None, :])
        return self.discount * np.einsum("satn,t->san", spread, sizes).max(axis=2)

    def action_value_slope(self, x: bl.Array, values: bl.Array) -> float:
        """The largest entry of `∂_x q(v) = J_r + γ J_P v`, before anything cancels."""
        rewards = np.abs(self.reward_jacobian(x)).max(axis=2)
        return float((rewards + self.kernel_slope(x, np.abs(values))).max())

    @property
    def measure(self) -> bl.Array:
        """μ (S, A), ones where there is no reference."""
        return np.ones_like(self.base_rewards) if self.reference is None else self.reference

    @property
    def lower(self) -> bl.ParametricMDP:
        """The same follower, of the library's parts; rewards linear or a `CallableReward`, all through `Slice`."""
        n, parts = self.dimension, dict[str, Any]()
        for name, block in self.blocks.items():
            parts[name] = bl.parametric.Slice(self._part(name, block), block.start, n)
        kernel = stored_as(self.base_kernel, self.sparse)
        return bl.ParametricMDP(
            parts.get("transitions", kernel),
            parts.get("rewards", self.base_rewards),
            self.discount,
            self.temperature,
            parts.get("initial", self.base_initial),
            self.reference,
        )

    def _part(self, name: str, block: slice) -> Any:
        if name == "transitions":
            features = self.kernel_features[self.base_kernel > 0][:, block]
            return bl.parametric.SoftmaxTransitions(stored_as(self.base_kernel, self.sparse), features)
        if name == "initial":
            return bl.parametric.SoftmaxInitial(self.base_initial, self.initial_features[:, block])
        features = self.reward_features[..., block]
        if not self.curved:
            return bl.parametric.LinearReward(self.base_rewards, features)
        return bl.parametric.CallableReward(
            lambda x: self.base_rewards + np.tanh(features @ x),
            lambda x, cotangent: np.einsum("sa,san->n", cotangent / np.cosh(features @ x) ** 2, features),
            features.shape[-1],
            lambda x: np.linalg.norm(features, axis=-1) / np.cosh(features @ x) ** 2,
        )


PARTS = ("rewards", "transitions", "initial")


@st.composite
def drawn_problems(
    draw: st.DrawFn,
    *,
    discount: st.SearchStrategy[float] | None = None,
    temperature: st.SearchStrategy[float] | None = None,
    enters: st.SearchStrategy[tuple[str, ...]] | None = None,
    everywhere_initial: bool = False,
    actions: int | None = None,
    dimension: int | None = None,
) -> DrawnProblem:
    """A follower whose rewards, transitions and initial distribution depend on x, some or all, with shared blocks.

    Args:
        draw: Hypothesis's.
        discount: γ.
        temperature: τ.
        enters: which parts depend on x.
        everywhere_initial: whether ρ must be positive in every state.
        actions: A, where it is given.
        dimension: n, where it is given; at least 6.
    """
    states, actions = draw(st.integers(1, 12)), draw(st.integers(1, 5)) if actions is None else actions
    kind, rewards = draw(st.sampled_from(KERNELS)), draw(st.sampled_from(REWARDS))
    unreachable = draw(st.integers(0, states - 1)) if draw(st.booleans()) else 0
    measure, sparse, curved = draw(st.sampled_from(REFERENCES)), draw(st.booleans()), draw(st.booleans())
    some_parts = st.sets(st.sampled_from(PARTS), min_size=1).map(lambda names: tuple(sorted(names)))
    names = draw(some_parts if enters is None else enters)
    blocks = {name: draw(st.tuples(st.integers(0, 3), st.integers(1, 3))) for name in names}
    blocks = {name: slice(start, start + size) for name, (start, size) in blocks.items()}
    n = max(block.stop for block in blocks.values()) + draw(st.integers(0, 1)) if dimension is None else dimension
    gamma = draw(discounts() if discount is None else discount)
    tau = draw(temperatures() if temperature is None else temperature)
    pinned = draw(st.booleans()) and not everywhere_initial
    rng = np.random.default_rng(draw(seeds))
    kinds = {"kernel": kind, "rewards": rewards, "reference": measure, "curved": curved, "sparse": sparse}
    return filled_problem(rng, states, actions, n, blocks, gamma, tau, unreachable=unreachable, pinned=pinned, **kinds)


def filled_problem(
    rng: np.random.Generator,
    states: int,
    actions: int,
    dimension: int,
    blocks: dict[str, slice],
    discount: float,
    temperature: float,
    *,
    kernel: str,
    rewards: str,
    reference: str | None,
    curved: bool,
    sparse: bool,
    unreachable: int,
    pinned: bool,
) -> DrawnProblem:
    """The follower of a structure, with numbers from the generator; arguments as the fields of `DrawnProblem`.

    Args:
        rng: where numbers come from.
        states: S.
        actions: A.
        dimension: n.
        blocks: of x.
        discount: γ.
        temperature: τ.
        kernel: one of `KERNELS`.
        rewards: one of `REWARDS`.
        reference: one of `REFERENCES`.
        curved: whether rewards are `tanh(φx)`, not `φx`.
        sparse: how P is stored.
        unreachable: states that nothing leads into.
        pinned: whether ρ⁰ is one state.
    """

    def features(name: str, *shape: int) -> bl.Array:
        array = np.zeros((*shape, dimension))
        if name in blocks:
            block = blocks[name]
            array[..., block] = rng.normal(size=(*shape, block.stop - block.start))
        return array

    return DrawnProblem(
        base_rewards=drawn_rewards(rng, rewards, states, actions),
        base_kernel=drawn_kernel(rng, kernel, states, actions, unreachable),
        base_initial=np.eye(states)[rng.integers(states)] if pinned else rng.dirichlet(np.ones(states)),
        reward_features=features("rewards", states, actions),
        kernel_features=features("transitions", states, actions, states),
        initial_features=features("initial", states),
        blocks=blocks,
        curved=curved,
        sparse=sparse,
        discount=discount,
        temperature=temperature,
        reference=drawn_reference(rng, reference, states, actions),
        x=0.5 * rng.normal(size=dimension),
    )


@st.composite
def drawn_contexts(draw: st.DrawFn, *, at_least: int = 1) -> tuple[list[DrawnProblem], bl.Array]:
    """One to three followers of one x, discount, temperature and number of actions; and their weights, some zero."""
    shared = {
        "discount": st.just(draw(discounts(high=0.99))),
        "temperature": st.just(draw(temperatures(low=0.05))),
        "actions": draw(st.integers(1, 4)),
        "dimension": 6,
    }
    contexts = draw(st.lists(drawn_problems(**shared), min_size=at_least, max_size=3))
    parts = np.array(draw(st.lists(st.integers(0, 9), min_size=len(contexts), max_size=len(contexts))), float)
    parts[0] += 1.0
    return contexts, parts / parts.sum()


OBJECTIVES = ("quadratic", "return", "return of the shared model", "log-likelihood", "sum")


def drawn_objective(drawn: DrawnProblem, kind: str, rng: np.random.Generator) -> Any:
    """A leader's objective of a kind, for a drawn follower."""
    shape = drawn.base_rewards.shape
    if kind == "quadratic":
        return bl.objectives.QuadraticObjective(0.5, 1.5, rng.normal(size=drawn.dimension), rng.normal(size=shape))
    if kind == "return":
        kernel = drawn_kernel(rng, "smooth", *shape, 0)
        return bl.objectives.ReturnObjective(bl.SoftMDP(kernel, rng.normal(size=shape), drawn.discount, 1.0))
    if kind == "return of the shared model":
        return bl.objectives.ReturnObjective(drawn.lower)
    if kind == "log-likelihood":
        return bl.objectives.LogLikelihoodObjective(rng.exponential(size=shape))
    terms = [(0.3, drawn_objective(drawn, name, rng)) for name in OBJECTIVES[:3]]
    return bl.objectives.WeightedSum(terms)
