"""Deterministic hyper-gradient estimators: three correct ones, and ones with a single fault each.

The correct ones solve the adjoint equation, solve for the forward sensitivities, and track the adjoint by a few terms
of its Neumann series a call. The first and the last are cut into small steps so that a fault is one step done wrong.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from kit.planted.solvers import written


@attrs.frozen(eq=False)
class Adjoint:
    """λ, with the miss of its equation and the work that it took."""

    values: bl.Array
    residual: float
    cost: bl.Cost


@attrs.frozen
class AdjointEstimator:
    """`r̄ = c + π ⊙ λ`, `(I − γP^π)ᵀλ = γPᵀc − Σ_a c`, `c = π ⊙ ∂f/∂π / τ`; then one pullback."""

    name: ClassVar[str] = "planted-adjoint"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    status: ClassVar[bl.Status] = bl.Status.CONVERGED

    def estimate(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        model = solution.model
        policy = self.policy(solution, previous)
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        with np.errstate(all="ignore"):
            cotangent = self.cotangent(model, policy, self.centred(policy, self.received(by_policy)))
            target = self.right_hand_side(model, cotangent)
        if not self.finite(objective, by_x, target):
            return self.failed(by_x, objective)
        adjoint = self.adjoint(solution, target, previous)
        weights = cotangent + policy * adjoint.values[:, None]
        occupancy = bl.occupancy.DenseOccupancy(weights, self.continuation(model, solution, previous))
        implicit = self.implicit(problem, x, solution, occupancy)
        cost = self.cost(adjoint.cost)
        carry = self.carry(solution, adjoint)
        return bl.HyperGradient(
            self.direct(by_x),
            implicit,
            self.objective(objective),
            self.reported(occupancy, cotangent),
            cost,
            self.status,
            adjoint.residual,
            carry=carry,
        )

    def policy(self, solution: bl.mdp.TabularSolution, previous: bl.HyperGradient | None) -> bl.Array:
        return solution.policy

    def received(self, by_policy: bl.Array) -> bl.Array:
        return by_policy

    def centred(self, policy: bl.Array, by_policy: bl.Array) -> bl.Array:
        """A number per state changes nothing; this one makes `Σ_a c` vanish, and loses the fewest digits."""
        return by_policy - (policy * by_policy).sum(axis=1, keepdims=True)

    def cotangent(self, model: bl.SoftMDP, policy: bl.Array, by_policy: bl.Array) -> bl.Array:
        return policy * by_policy / model.temperature

    def right_hand_side(self, model: bl.SoftMDP, cotangent: bl.Array) -> bl.Array:
        return model.discount * model.transitions.transpose_expectation(cotangent) - cotangent.sum(axis=1)

    def finite(self, objective: float, by_x: bl.Array, target: bl.Array) -> bool:
        return bool(math.isfinite(objective) and np.isfinite(by_x).all() and np.isfinite(target).all())

    def adjoint(self, solution: bl.mdp.TabularSolution, target: bl.Array, previous: bl.HyperGradient | None) -> Adjoint:
        values = solution.linearization.solve_transpose(target)
        return Adjoint(values, miss(solution, values, target), bl.Cost(linear_solves=1, products=1))

    def continuation(
        self, model: bl.SoftMDP, solution: bl.mdp.TabularSolution, previous: bl.HyperGradient | None
    ) -> bl.Array:
        return model.discount * solution.values

    def implicit(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        occupancy: bl.occupancy.DenseOccupancy,
    ) -> bl.Array:
        return problem.lower.pullback(x, occupancy)

    def direct(self, by_x: bl.Array) -> bl.Array:
        return by_x

    def objective(self, value: float) -> float:
        return value

    def reported(self, occupancy: bl.occupancy.DenseOccupancy, cotangent: bl.Array) -> bl.occupancy.DenseOccupancy:
        return occupancy

    def cost(self, cost: bl.Cost) -> bl.Cost:
        return cost

    def carry(self, solution: bl.mdp.TabularSolution, adjoint: Adjoint) -> dict[str, bl.Array]:
        return {}

    def failed(self, by_x: bl.Array, objective: float) -> bl.HyperGradient:
        return bl.HyperGradient(by_x, np.full_like(by_x, np.nan), objective, None, bl.Cost(), bl.Status.NON_FINITE)


def miss(solution: bl.mdp.TabularSolution, adjoint: bl.Array, target: bl.Array) -> float:
    """`‖(I − γP^π)ᵀλ − b‖∞`."""
    return float(np.abs(solution.linearization.apply_transpose(adjoint) - target).max())


def neumann(
    solution: bl.mdp.TabularSolution, adjoint: bl.Array, target: bl.Array, terms: int, *, transpose: bool = True
) -> bl.Array:
    """`λ ← λ + (b − (I − γP^π)ᵀλ)`, which is `λ ← b + γ(P^π)ᵀλ`, so many times."""
    system = solution.linearization
    apply = system.apply_transpose if transpose else system.apply
    for _ in range(terms):
        adjoint = adjoint + (target - apply(adjoint))
    return adjoint


@attrs.frozen
class TrackingEstimator(AdjointEstimator):
    """So many terms of the Neumann series a call, from where the last call ended."""

    name: ClassVar[str] = "planted-tracking-adjoint"
    tags: ClassVar[bl.Tags] = bl.Tags("tracking")
    status: ClassVar[bl.Status] = bl.Status.BUDGET_SPENT

    terms: int = 20

    def start(self, target: bl.Array, previous: bl.HyperGradient | None) -> bl.Array:
        carried = {} if previous is None else previous.carry
        return carried.get("adjoint", np.zeros_like(target))

    def adjoint(self, solution, target, previous):
        values = neumann(solution, self.start(target, previous), target, self.terms)
        return Adjoint(values, miss(solution, values, target), bl.Cost(products=self.terms + 1))

    def carry(self, solution, adjoint):
        return {"adjoint": adjoint.values}


class StoppingEstimator(AdjointEstimator):
    """Refines until `‖r‖ ≤ 1e-12 ‖b‖ + 1e-14`, as iterative methods do: its tolerance is not that of tiny gradients."""

    name: ClassVar[str] = "planted-stopping-adjoint"
    tags: ClassVar[bl.Tags] = bl.Tags("exact", tolerance=1e-8)

    def adjoint(self, solution, target, previous):
        values, system, solves = np.zeros_like(target), solution.linearization, 0
        for _ in range(3):
            rest = target - system.apply_transpose(values)
            if np.linalg.norm(rest) <= 1e-12 * np.linalg.norm(target) + 1e-14:
                break
            values, solves = values + system.solve_transpose(rest), solves + 1
        cost = bl.Cost(linear_solves=solves, products=min(solves + 1, 3) + 1)
        return Adjoint(values, miss(solution, values, target), cost)


@attrs.frozen
class ForwardEstimator:
    """`(I − γP^π) D = Σ_a π ∂_xq`, `Σ c (∂_xq + γPD − D)`: one linear solve for each coordinate of x."""

    name: ClassVar[str] = "planted-forward"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    def estimate(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        model, policy, system = solution.model, solution.policy, solution.linearization
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        if not (math.isfinite(objective) and np.isfinite(by_x).all() and np.isfinite(by_policy).all()):
            nothing = np.full_like(by_x, np.nan)
            return bl.HyperGradient(by_x, nothing, objective, None, bl.Cost(), bl.Status.NON_FINITE)
        worth = model.discount * solution.values
        units = np.eye(policy.size).reshape(-1, *policy.shape)
        rows = [problem.lower.pullback(x, bl.occupancy.DenseOccupancy(unit, worth)) for unit in units]
        by_action = np.array(rows).reshape(*policy.shape, x.size)
        cotangent = policy * by_policy / model.temperature
        through_values = model.discount * model.transitions.transpose_expectation(cotangent) - cotangent.sum(axis=1)
        implicit, residual = np.zeros(x.size), 0.0
        for k in range(x.size):
            target = (policy * by_action[..., k]).sum(axis=1)
            values = system.solve(target)
            residual = max(residual, float(np.abs(system.apply(values) - target).max()))
            implicit[k] = (cotangent * by_action[..., k]).sum() + through_values @ values
        cost = bl.Cost(linear_solves=x.size, products=x.size)
        return bl.HyperGradient(by_x, implicit, objective, None, cost, bl.Status.CONVERGED, residual)


# The equations.


class TemperatureForgotten(AdjointEstimator):
    def cotangent(self, model, policy, by_policy):
        return policy * by_policy


class ReferenceMultipliedAgain(AdjointEstimator):
    def cotangent(self, model, policy, by_policy):
        return super().cotangent(model, policy, by_policy) * (1.0 if model.reference is None else model.reference)


class KernelNotTransposed(AdjointEstimator):
    def adjoint(self, solution, target, previous):
        values = solution.linearization.solve(target)
        residual = float(np.abs(solution.linearization.apply(values) - target).max())
        return Adjoint(values, residual, bl.Cost(linear_solves=1, products=1))


class DiscountSquaredInTheAdjoint(AdjointEstimator):
    def adjoint(self, solution, target, previous):
        model = solution.model
        system = bl.mdp.Linearization(model.transitions, model.discount**2, solution.policy)
        values = system.solve_transpose(target)
        residual = float(np.abs(system.apply_transpose(values) - target).max())
        return Adjoint(values, residual, bl.Cost(linear_solves=1, products=1))


class DiscountForgottenInTheInflow(AdjointEstimator):
    def right_hand_side(self, model, cotangent):
        return model.transitions.transpose_expectation(cotangent) - cotangent.sum(axis=1)


class ActionValuesOnly(AdjointEstimator):
    """∇Q without ∇V: nothing is subtracted."""

    def centred(self, policy, by_policy):
        return by_policy

    def right_hand_side(self, model, cotangent):
        return model.discount * model.transitions.transpose_expectation(cotangent)


class PresentStepOnly(AdjointEstimator):
    """`∇r(s,a) − E_a'[∇r(s,a')]`: what comes after the step is left out."""

    def adjoint(self, solution, target, previous):
        nothing = np.zeros_like(target)
        return Adjoint(nothing, miss(solution, nothing, target), bl.Cost(products=1))


class TruncatedTail(AdjointEstimator):
    def adjoint(self, solution, target, previous):
        values = neumann(solution, np.zeros_like(target), target, 20)
        return Adjoint(values, miss(solution, values, target), bl.Cost(products=21))


class NeverSolvedResidualZero(TrackingEstimator):
    def adjoint(self, solution, target, previous):
        return attrs.evolve(super().adjoint(solution, target, previous), residual=0.0)


class LastStateTakenToBeZero(AdjointEstimator):
    def adjoint(self, solution, target, previous):
        adjoint = super().adjoint(solution, target, previous)
        adjoint.values[-1] = 0.0
        residual = miss(solution, adjoint.values, target)
        return Adjoint(adjoint.values, residual, adjoint.cost + bl.Cost(products=1))


class ImplicitSignFlipped(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        return -super().implicit(problem, x, solution, occupancy)


class DirectMissing(AdjointEstimator):
    def direct(self, by_x):
        return np.zeros_like(by_x)


class DirectTwice(AdjointEstimator):
    def direct(self, by_x):
        return 2.0 * by_x


class ImplicitMissing(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        return np.zeros_like(x)


class GradientClippedByEntry(AdjointEstimator):
    def received(self, by_policy):
        return np.clip(by_policy, -0.1, 0.1)


class ImplicitNormalised(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        implicit = super().implicit(problem, x, solution, occupancy)
        length = float(np.linalg.norm(implicit))
        return implicit / length if length else implicit


class GradientFlattenedInMemoryOrder(AdjointEstimator):
    def received(self, by_policy):
        return by_policy.ravel(order="K").reshape(by_policy.shape)


class PolicyFlattenedInMemoryOrder(AdjointEstimator):
    def policy(self, solution, previous):
        return solution.policy.ravel(order="K").reshape(solution.policy.shape)


class ForgetsTheLastComponent(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        implicit = super().implicit(problem, x, solution, occupancy)
        return np.append(implicit[:-1], 0.0)


# The transitions' and the initial distribution's part.


class WorthOfZero(AdjointEstimator):
    def continuation(self, model, solution, previous):
        return np.zeros(model.states)


class WorthNotDiscounted(AdjointEstimator):
    def continuation(self, model, solution, previous):
        return solution.values


class WorthOfThePreviousCall(AdjointEstimator):
    def continuation(self, model, solution, previous):
        stale = solution.values if previous is None else previous.carry.get("values", solution.values)
        return model.discount * stale

    def carry(self, solution, adjoint):
        return {"values": solution.values}


class WorthWithoutTheEntropy(AdjointEstimator):
    """The true return of the policy, where its regularised value belongs."""

    def continuation(self, model, solution, previous):
        return model.discount * bl.mdp.policy_values(model, solution.policy, regularized=False)

    def cost(self, cost):
        return cost + bl.Cost(linear_solves=1)


class TransitionsPartMissing(AdjointEstimator):
    """The occupancy it reports has the part; what it pulls back has not."""

    def implicit(self, problem, x, solution, occupancy):
        nothing = np.zeros(solution.model.states)
        return problem.lower.pullback(x, attrs.evolve(occupancy, continuation=nothing))


class InitialDistributionEnters(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        return problem.lower.pullback(x, attrs.evolve(occupancy, initial=-solution.values))


class OccupancyIsTheCotangentOnly(AdjointEstimator):
    def reported(self, occupancy, cotangent):
        return attrs.evolve(occupancy, weights=cotangent)


class OccupancyOfTheOtherSign(AdjointEstimator):
    def reported(self, occupancy, cotangent):
        return attrs.evolve(occupancy, weights=-occupancy.weights)


# What it says of its answer.


class ObjectiveNotReported(AdjointEstimator):
    def objective(self, value):
        return 0.0 if math.isfinite(value) else value


class ObjectiveOfThePreviousCall(AdjointEstimator):
    """Reports the last call's value of f."""

    def estimate(self, problem, x, solution, previous, rng):
        hyper = super().estimate(problem, x, solution, previous, rng)
        return hyper if previous is None else attrs.evolve(hyper, objective=previous.objective)


class CountsNoSolves(AdjointEstimator):
    def cost(self, cost):
        return bl.Cost(**{**cost.counts, "linear_solves": 0})


class CountsNoProducts(TrackingEstimator):
    def cost(self, cost):
        return bl.Cost(**{**cost.counts, "products": 0})


class ConvergedWithNaN(AdjointEstimator):
    def failed(self, by_x, objective):
        return attrs.evolve(super().failed(by_x, objective), status=bl.Status.CONVERGED)


class RaisesOnNaN(AdjointEstimator):
    def failed(self, by_x, objective):
        raise np.linalg.LinAlgError("the right-hand side is not finite")


class NaNTakenForZero(AdjointEstimator):
    """Cleans the gradient instead of telling that it is not finite."""

    def received(self, by_policy):
        return np.nan_to_num(by_policy, nan=0.0, posinf=0.0, neginf=0.0)

    def finite(self, objective, by_x, target):
        return True


class SinglePrecision(AdjointEstimator):
    def direct(self, by_x):
        return by_x.astype(np.float32)

    def implicit(self, problem, x, solution, occupancy):
        return super().implicit(problem, x, solution, occupancy).astype(np.float32)


class RoundedToSinglePrecision(AdjointEstimator):
    def cotangent(self, model, policy, by_policy):
        return super().cotangent(model, policy, by_policy).astype(np.float32).astype(np.float64)


# What it does to others, and keeps for itself.


class MutatesThePolicy(AdjointEstimator):
    """Mixes exploration into the policy, where it stands."""

    def implicit(self, problem, x, solution, occupancy):
        implicit = super().implicit(problem, x, solution, occupancy)
        actions = solution.policy.shape[1]
        written(solution.policy, 0.9 * solution.policy + 0.1 / actions + 1e-9)
        return implicit


class MutatesX(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        implicit = super().implicit(problem, x, solution, occupancy)
        written(x, x - 1e-3 * implicit - 1e-3)
        return implicit


class MutatesTheCarriedAdjoint(TrackingEstimator):
    def adjoint(self, solution, target, previous):
        adjoint = super().adjoint(solution, target, previous)
        carried = None if previous is None else previous.carry.get("adjoint")
        if carried is not None:
            written(carried, adjoint.values)
        return adjoint


@attrs.frozen(slots=False)
class Remembering:
    memory: dict[str, Any] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def swap(self, key: str, value: Any) -> Any:
        """What was kept under the key, which now keeps the value; the value itself the first time."""
        last = self.memory.get(key, value)
        self.memory[key] = value
        return last if np.shape(last) == np.shape(value) else value


@attrs.frozen
class PolicyOfThePreviousCall(Remembering, AdjointEstimator):
    def policy(self, solution, previous):
        return self.swap("policy", solution.policy)


class PolicyCarried(AdjointEstimator):
    """Differentiates at the policy of the previous estimate."""

    def policy(self, solution, previous):
        carried = {} if previous is None else previous.carry
        return carried.get("policy", solution.policy)

    def carry(self, solution, adjoint):
        return {"policy": solution.policy}


@attrs.frozen
class RunningAverage(Remembering, AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        implicit = super().implicit(problem, x, solution, occupancy)
        return 0.5 * implicit + 0.5 * self.swap("implicit", implicit)


class WarmStartTakenForTheAnswer(AdjointEstimator):
    def estimate(self, problem, x, solution, previous, rng):
        hyper = super().estimate(problem, x, solution, previous, rng)
        return hyper if previous is None else attrs.evolve(previous, cost=hyper.cost)


@attrs.frozen
class StepCounterInTheObject(Remembering, TrackingEstimator):
    """Takes more terms a call, by a counter that no carry has."""

    def adjoint(self, solution, target, previous):
        calls = self.memory["calls"] = self.memory.get("calls", 0) + 1
        terms = self.terms + calls
        values = neumann(solution, self.start(target, previous), target, terms)
        return Adjoint(values, miss(solution, values, target), bl.Cost(products=terms + 1))


@attrs.frozen
class TracksInsideTheObject(Remembering, TrackingEstimator):
    def adjoint(self, solution, target, previous):
        start = self.memory.get("adjoint", np.zeros_like(target))
        start = start if start.shape == target.shape else np.zeros_like(target)
        values = self.memory["adjoint"] = neumann(solution, start, target, self.terms)
        return Adjoint(values, miss(solution, values, target), bl.Cost(products=self.terms + 1))


class NeverGetsFurther(TrackingEstimator):
    def start(self, target, previous):
        return np.zeros_like(target)


class StartsAtRandom(TrackingEstimator):
    def start(self, target, previous):
        if previous is not None:
            return super().start(target, previous)
        return np.random.standard_normal(target.size)  # noqa: NPY002


class DenseKernelsOnly(AdjointEstimator):
    def right_hand_side(self, model, cotangent):
        kernel = model.transitions.probabilities
        return model.discount * np.einsum("sat,sa->t", kernel, cotangent) - cotangent.sum(axis=1)


class AsksForASimulator(AdjointEstimator):
    def implicit(self, problem, x, solution, occupancy):
        problem.lower.simulator(x)
        return super().implicit(problem, x, solution, occupancy)
