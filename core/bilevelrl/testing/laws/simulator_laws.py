"""The laws of a problem's simulator: it agrees with the problem's model if there is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevelrl.mdp.bellman import adjoint_occupancy, adjoint_right_hand_side
from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.plugins.components import Kind
from bilevelrl.sampling.simulators import SupportsVisits
from bilevelrl.testing.exact import dense_kernel, point_of
from bilevelrl.testing.law import law
from bilevelrl.testing.laws.problem_laws import policies_at, with_model, with_simulator
from bilevelrl.testing.question import rng_of
from bilevelrl.testing.snapshots import arrays_of
from bilevelrl.testing.violation import expect, expect_close, expect_same
from bilevelrl.validation.arrays import Array

PROBLEM = Kind.PROBLEM
CONFIDENCE = 5.0
TRAJECTORIES, HORIZON = 2000, 50
PAIRS, REPLICATES, DIRECTIONS = 2000, 40, 3


@law(PROBLEM, with_simulator)
def simulator_repeats_itself(subject: Any, problem: Any = None) -> None:
    """The same generator gives the same trajectories, bit for bit, and x is not changed."""
    x = point_of(subject)
    kept, policy = x.copy(), policies_at(subject, x)[0]
    first = subject.lower.simulator(x).rollout(policy, 20, 10, rng_of(31))
    again = subject.lower.simulator(x).rollout(policy, 20, 10, rng_of(31))
    for name, array in arrays_of(first, "trajectories"):
        expect_same(f"{name} drawn again", dict(arrays_of(again, "trajectories"))[name], array)
    expect_same("x after simulator(x)", x, kept)


@law(PROBLEM, with_model, with_simulator)
def simulator_agrees_with_the_model(subject: Any, problem: Any = None) -> None:
    """Visited frequencies are P's and ρ's, rewards are r's, and no step ends an episode.

    Each count is compared with its binomial expectation at five standard errors.
    """
    x = point_of(subject)
    mdp, simulator = subject.lower.model(x), subject.lower.simulator(x)
    spec = simulator.spec
    known = {"states": mdp.states, "actions": mdp.actions, "discount": mdp.discount, "temperature": mdp.temperature}
    for name, expected in known.items():
        expect_close(f"spec.{name}", getattr(spec, name), expected, 0)
    policy = np.full((mdp.states, mdp.actions), 1.0 / mdp.actions)
    drawn = simulator.rollout(policy, TRAJECTORIES, HORIZON, rng_of(32))
    before, taken, after = drawn.observations[:, :-1], drawn.actions, drawn.observations[:, 1:]
    paid = np.abs(drawn.rewards - mdp.rewards[before, taken])
    worst = np.unravel_index(int(paid.argmax()), paid.shape)
    s, a = int(before[worst]), int(taken[worst])
    came, wanted = float(drawn.rewards[worst]), float(mdp.rewards[s, a])
    expect_close(f"the reward of action {a} in state {s}", came, wanted, 1e-9 * (1 + abs(wanted)))
    measure = np.ones(mdp.rewards.shape) if mdp.reference is None else mdp.reference
    expect_close("spec.reference", np.ones(mdp.rewards.shape) if spec.reference is None else spec.reference, measure, 0)
    starts = np.bincount(drawn.observations[:, 0], minlength=mdp.states)
    _compare_counts("starts in state", starts[None].astype(float), mdp.initial[None])
    _compare_counts("actions in state", _counts(before, taken, mdp.states, mdp.actions), policy)
    pairs = before * mdp.actions + taken
    kernel = dense_kernel(mdp).reshape(-1, mdp.states)
    _compare_counts("transitions from (s, a)", _counts(pairs, after, mdp.states * mdp.actions, mdp.states), kernel)
    _compare_ends(simulator, mdp)


def _counts(rows: Any, columns: Any, height: int, width: int) -> Array:
    flat = np.bincount((rows * width + columns).reshape(-1), minlength=height * width)
    return np.asarray(flat.reshape(height, width), float)


def _compare_counts(what: str, counts: Array, chances: Array) -> None:
    """Compare the counts of a row with its probabilities; impossible events must have count zero."""
    totals = counts.sum(axis=1, keepdims=True)
    expected = totals * chances
    allowed = CONFIDENCE * np.sqrt(expected * (1 - chances)) + CONFIDENCE**2 * (chances > 0) + 1e-6
    expect_close(f"the number of {what}", counts, expected, allowed)


def _compare_ends(simulator: Any, mdp: Any) -> None:
    rng = rng_of(33)
    here = simulator.reset(200, rng)
    for _ in range(HORIZON):
        step = simulator.step(rng.integers(mdp.actions, size=here.size), rng)
        here = step.observations
        expect_same(
            "terminated, in a table, whose absorbing states pay on", step.terminated, np.zeros_like(step.terminated)
        )


def with_visits(subject: Any) -> str:
    """Only for problems whose simulator sums visits without recording them."""
    lacks = with_simulator(subject)
    offers = not lacks and isinstance(subject.lower.simulator(point_of(subject)), SupportsVisits)
    return "" if offers else lacks or "its simulator does not sum visits (SupportsVisits)"


@law(PROBLEM, with_model, with_visits)
def visits_agree_with_the_model(subject: Any, problem: Any = None) -> None:
    """`E[signed_visits] = Σ_j w_j (d_(s_j,a_j) − d_(s_j))`, also for T steps; the same generator gives the same sums.

    The mean over independent calls is compared along the exact answer and a few random directions, at five standard
    errors.
    """
    x = point_of(subject)
    mdp, simulator, rng = subject.lower.model(x), subject.lower.simulator(x), rng_of(34)
    policy = rng.dirichlet(np.ones(mdp.actions), mdp.states)
    pairs = rng.integers(policy.size, size=PAIRS)
    weights = rng.normal(size=policy.size)[pairs]
    asked = (pairs // mdp.actions, pairs % mdp.actions, weights, policy)
    cotangent: Any = np.bincount(pairs, weights, minlength=policy.size).reshape(policy.shape)
    size = np.abs(weights).sum() / (1.0 - mdp.discount)
    for truncation in (None, 3):
        exact = _occupancy(mdp, policy, cotangent, truncation).reshape(-1)
        directions = np.vstack(
            [exact / (1e-300 + np.abs(exact).max()), rng.uniform(-1.0, 1.0, (DIRECTIONS, exact.size))]
        )
        for together in (True, False):
            options = {"truncation": truncation, "common_random_numbers": together}
            part = f"the visits ({', '.join(f'{name}={value}' for name, value in options.items())})"
            _visits_repeat_themselves(simulator, asked, options, part)
            tables = [simulator.signed_visits(*asked, rng, **options)[0].reshape(-1) for _ in range(REPLICATES)]
            seen = np.array(tables) @ directions.T
            error = np.std(seen, axis=0, ddof=1) / np.sqrt(REPLICATES)
            expect_close(f"the mean of {part}", seen.mean(axis=0), directions @ exact, CONFIDENCE * error + 1e-9 * size)


def _visits_repeat_themselves(simulator: Any, asked: Any, options: Any, part: str) -> None:
    table, drawn = simulator.signed_visits(*asked, rng_of(35), **options)
    again, drawn_again = simulator.signed_visits(*asked, rng_of(35), **options)
    expect_same(f"{part}, drawn again", again, table)
    expect_same(f"the transitions of {part}, drawn again", np.array(drawn_again), np.array(drawn))
    expect(f"the transitions of {part}", drawn > 0, expected="a positive number", came=drawn)


def _occupancy(mdp: SoftMDP, policy: Array, cotangent: Array, truncation: int | None) -> Array:
    """`Σ_sa c_sa (d_(s,a) − d_s)`: by the adjoint equation, or the sum of its first T steps."""
    if truncation is None:
        flow = adjoint_right_hand_side(mdp, cotangent)
        adjoint = Linearization(mdp.transitions, mdp.discount, policy).solve_transpose(flow)
        return adjoint_occupancy(mdp, policy, np.zeros(mdp.states), cotangent, adjoint).weights
    step: Array = cotangent - policy * cotangent.sum(axis=1, keepdims=True)
    total = step.copy()
    for _ in range(truncation - 1):
        step = policy * (mdp.discount * mdp.transitions.transpose_expectation(step))[:, None]
        total += step
    return total
