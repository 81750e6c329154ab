"""Counts the work of a component: passes over P, linear solves, products, transitions drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.transitions import DenseTransitions, SparseTransitions, Transitions
from bilevelrl.sampling.simulators import FollowerSpec, Step, SupportsRestart, SupportsVisits, Trajectories
from bilevelrl.testing.violation import NotApplicable
from bilevelrl.validation.arrays import Array, Indices


@attrs.define
class Tally:
    """The counted work.

    Args:
        backups: calls of `expectation`, each one pass over P.
        linear_solves: solves of a `Linearization` of the model, with the matrix or its transpose, by factorisation.
        products: its other products, one for each column, including those of solves by iteration.
        samples: transitions drawn.
        seen_raw: whether the component read P or P^π itself, whose use cannot be counted; the counts are then lower
            bounds.
        inside: the number of counted methods in progress, which may read both.
    """

    backups: int = 0
    linear_solves: int = 0
    products: int = 0
    samples: int = 0
    seen_raw: bool = False
    inside: int = 0


class _Counted:
    """The common part of both counted kernels; `original` does the work."""

    def __init__(self, original: Any, tally: Tally) -> None:
        self.original, self.tally = original, tally
        self.states, self.actions = original.states, original.actions

    def expectation(self, values: Array) -> Array:
        self.tally.backups += 1
        return np.asarray(self.original.expectation(values))

    def transpose_expectation(self, weights: Array) -> Array:
        return np.asarray(self.original.transpose_expectation(weights))

    def under(self, policy: Array) -> Any:
        self.tally.seen_raw = self.tally.seen_raw or not self.tally.inside
        return self.original.under(policy)

    def row(self, state: int, action: int) -> tuple[Indices, Array]:
        self.tally.seen_raw = True
        pair: tuple[Indices, Array] = self.original.row(state, action)
        return pair

    def stored(self) -> tuple[Indices, Indices, Array]:
        self.tally.seen_raw = True
        triple: tuple[Indices, Indices, Array] = self.original.stored()
        return triple

    @property
    def probabilities(self) -> Any:
        self.tally.seen_raw = True
        return self.original.probabilities


class _CountedDense(_Counted, DenseTransitions):  # type: ignore[override]
    """A counting wrapper that is an instance of the dense kernel's class."""

    @property
    def _flat(self) -> Any:  # type: ignore[override]
        self.tally.seen_raw = True
        return self.original._flat


class _CountedSparse(_Counted, SparseTransitions):
    """A counting wrapper that is an instance of the sparse kernel's class."""

    @property
    def chains(self) -> Any:
        """The pattern of the chains' entries, without their values."""
        return self.original.chains


def counted_transitions(original: Transitions, tally: Tally) -> Transitions:
    """A counting wrapper of the kernel; `isinstance` gives the same class."""
    kind = _CountedSparse if isinstance(original, SparseTransitions) else _CountedDense
    if not isinstance(original, DenseTransitions | SparseTransitions):
        raise NotApplicable("the problem's transitions are of a class of their own, which cannot be counted")
    return kind(original, tally)


@contextlib.contextmanager
def counting_linear_algebra(tally: Tally) -> Iterator[None]:
    """Count the solves and products of every `Linearization` of a kernel that `tally` counts."""
    names = ("solve", "solve_transpose", "apply", "apply_transpose")
    originals: dict[str, Any] = {name: getattr(Linearization, name) for name in names}
    chain: Any = Linearization.__dict__["chain"]

    def watched(name: str) -> Callable[..., Array]:
        original, solves = originals[name], name.startswith("solve")

        def method(self: Linearization, argument: Array, **options: Any) -> Array:
            counts, outermost, before = (
                getattr(self.transitions, "tally", None) is tally,
                not tally.inside,
                self.iterated,
            )
            tally.inside += counts
            try:
                answer: Array = original(self, argument, **options)
            finally:
                tally.inside -= counts
            if counts and outermost:
                iterated = self.iterated - before
                columns = argument.shape[1] if argument.ndim > 1 else 1
                tally.products += iterated + (0 if solves else columns)
                tally.linear_solves += solves and not iterated
            return answer

        return method

    def watched_chain(self: Linearization) -> Any:
        if getattr(self.transitions, "tally", None) is tally and not tally.inside:
            tally.seen_raw = True
        return chain.fget(self)

    try:
        for name in originals:
            setattr(Linearization, name, watched(name))
        Linearization.chain = property(watched_chain)  # type: ignore[assignment]
        yield
    finally:
        for name, original in originals.items():
            setattr(Linearization, name, original)
        Linearization.chain = chain  # type: ignore[method-assign]


class CountingSimulator:
    """A simulator that counts the transitions it returns or reports; it has the same methods as the original."""

    def __init__(self, original: Any, tally: Tally) -> None:
        self._original, self._tally = original, tally
        if isinstance(original, SupportsRestart):
            self.rollout_from = self._rollout_from
        if isinstance(original, SupportsVisits):
            self.signed_visits = self._signed_visits

    @property
    def spec(self) -> FollowerSpec:
        """The original's."""
        spec: FollowerSpec = self._original.spec
        return spec

    def reset(self, count: int, rng: np.random.Generator) -> Indices:
        """No transition."""
        observations: Indices = self._original.reset(count, rng)
        return observations

    def step(self, actions: Indices, rng: np.random.Generator) -> Step:
        """One transition for each environment."""
        self._tally.samples += int(np.size(actions))
        step: Step = self._original.step(actions, rng)
        return step

    def rollout(self, policy: Array, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """N·H transitions."""
        drawn: Trajectories = self._original.rollout(policy, count, horizon, rng)
        self._tally.samples += drawn.samples
        return drawn

    def _rollout_from(
        self, observations: Indices, actions: Indices | None, policy: Array, horizon: int, rng: np.random.Generator
    ) -> Trajectories:
        drawn: Trajectories = self._original.rollout_from(observations, actions, policy, horizon, rng)
        self._tally.samples += drawn.samples
        return drawn

    def _signed_visits(self, *arguments: Any, **options: Any) -> tuple[Array, int]:
        table, drawn = self._original.signed_visits(*arguments, **options)
        self._tally.samples += drawn
        return table, drawn
