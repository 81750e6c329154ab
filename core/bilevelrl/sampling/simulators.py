"""Simulators: the follower's world, seen only by acting in it.

The interface is close to Gymnasium's vector environments (`reset`, `step`, many environments at once), with two
differences. All randomness comes from the generator passed in: the same generator gives the same trajectories, bit for
bit. Under a table of probabilities `rollout` hands it out to trajectories by their index, so that the first ones do
not depend on the number of the others; `reset` and `step` hand out one number an environment and call. And nothing
resets by itself: an environment whose episode has ended is not asked again until the next `reset`.

Termination belongs to a transition, not to a state: the same observation may be the last one of an episode, or not.
What follows a termination is padding, which repeats the last observation, pays nothing and counts nowhere. An episode
that is cut off by a time limit is truncated, and that is no termination. The absorbing states of a table (`SoftMDP`)
are states like others, with rewards and entropy of their own; a `TabularSimulator` ends no episode.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.occupancy import Values
from bilevelrl.protocols import Policy
from bilevelrl.sampling.policies import as_policy
from bilevelrl.sampling.spaces import is_space, table_size
from bilevelrl.validation.arrays import Array, Indices, Mask
from bilevelrl.validation.errors import InputError, shape_words, value_words
from bilevelrl.validation.fields import check_count
from bilevelrl.validation.memory import check_fits

# Observations, actions, rewards and environment rewards, of eight bytes each.
ARRAYS_OF_A_TABLE = 4


def _check_space(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_space(f"FollowerSpec.{attribute.name}", value)


@attrs.frozen(eq=False)
class FollowerSpec:
    """What a model-free component may know of the follower's MDP.

    Args:
        observation_space: the space of observations: any object with Gymnasium's `contains`, `shape` and `dtype`;
            `Discrete(S)` for a table.
        action_space: the space of actions, likewise; `Discrete(A)` for a table.
        discount: γ.
        temperature: τ.
        reference: μ: an array (S, A) for a table, a `Policy` whose `log_probabilities` are log μ elsewhere, or None
            for μ = 1.
    """

    observation_space: Any = attrs.field(validator=_check_space)
    action_space: Any = attrs.field(validator=_check_space)
    discount: float
    temperature: float
    reference: Any = None

    @property
    def tabular(self) -> bool:
        """Whether observations and actions are the indices of a table."""
        return None not in (table_size(self.observation_space), table_size(self.action_space))

    @property
    def states(self) -> int:
        """S, the number of observations; raises `InputError` where they are not the indices of a table."""
        return _size("observation_space", self.observation_space)

    @property
    def actions(self) -> int:
        """A; raises `InputError` where actions are not the indices of a table."""
        return _size("action_space", self.action_space)


def _size(name: str, space: Any) -> int:
    size = table_size(space)
    if size is None:
        expected = "Discrete(n) starting at 0, since this component keeps a table; use one with function approximation"
        raise InputError(f"the follower's {name}", value_words(space), expected)
    return size


@attrs.frozen(eq=False)
class Step:
    """What `count` environments answer to one action each.

    Args:
        observations: (count, …) where they are now.
        rewards: (count,) the follower's rewards at x for the observation before and the action; zero where the episode
            had ended before.
        terminated: (count,) whose episode this transition ended, or one before it.
        environment_rewards: (count,) what the environment itself paid; None where the simulator has no reward but the
            follower's.
    """

    observations: Values
    rewards: Array
    terminated: Mask
    environment_rewards: Array | None = None


@attrs.frozen(eq=False)
class Trajectories:
    """N trajectories of H steps.

    Args:
        observations: (N, H + 1, …), the one after the last action included; of any type and shape.
        actions: (N, H, …), likewise.
        rewards: (N, H), the follower's rewards at x.
        environment_rewards: (N, H), what the environment itself paid, for a labeller to judge by; None where the
            simulator has no reward but the follower's.
        terminated: (N, H), True from the transition that ended the episode on; what follows that transition is padding.
            None where no episode ends.
        states: (N, H + 1, …) what `SupportsRestart.rollout_from` takes to continue from each visit, such as the clones
            of an emulator (an array of objects); None where the observations themselves are that, as in tables.
    """

    observations: Values
    actions: Values
    rewards: Array
    environment_rewards: Array | None = None
    terminated: Mask | None = None
    states: Values | None = None

    @property
    def count(self) -> int:
        """N."""
        return int(self.actions.shape[0])

    @property
    def horizon(self) -> int:
        """H."""
        return int(self.actions.shape[1])

    @property
    def samples(self) -> int:
        """Transitions drawn: N·H, less the padding."""
        return self.count * self.horizon if self.terminated is None else int(self.alive().sum())

    def alive(self) -> Mask:
        """(N, H) which transitions took place; False for the padding after a termination."""
        alive = np.ones((self.count, self.horizon), dtype=bool)
        if self.terminated is not None:
            alive[:, 1:] = ~np.logical_or.accumulate(self.terminated, axis=1)[:, :-1]
        return alive

    def lived(self, weights: Array) -> Array:
        """(N, H) `weights`, which broadcast to that shape, with zeros for the padding."""
        weights = np.broadcast_to(weights, (self.count, self.horizon))
        return weights if self.terminated is None else np.where(self.alive(), weights, 0.0)

    @property
    def restart_states(self) -> Values:
        """(N, H + 1, …) what `SupportsRestart.rollout_from` takes: `states`, or else the observations."""
        return self.observations if self.states is None else self.states

    def part(self, rows: slice) -> Trajectories:
        """Some of the trajectories."""
        return self._mapped(lambda array, _: array[rows])

    def first_steps(self, horizon: int) -> Trajectories:
        """All trajectories, cut after `horizon` steps."""
        return self._mapped(lambda array, longer: array[:, : horizon + longer])

    def _mapped(self, cut: Any) -> Trajectories:
        arrays: dict[str, Any] = {
            name: None if array is None else cut(array, name in ("observations", "states"))
            for name, array in attrs.asdict(self, recurse=False).items()
        }
        return Trajectories(**arrays)

    def visits(self, weights: Array, shape: tuple[int, ...]) -> Array:
        """(S, A) the sum of `weights` (N, H) over the visits to each state and action of a table; padding is none."""
        flat = self.observations[:, :-1] * shape[1] + self.actions
        weights = self.lived(weights)
        sums: Any = np.bincount(flat.reshape(-1), weights=weights.reshape(-1), minlength=shape[0] * shape[1])
        table: Array = sums.reshape(shape)
        return table


def joined(batches: list[Trajectories]) -> Trajectories:
    """The trajectories of several batches of one horizon, one batch after another; what a batch lacks is left out."""
    arrays: dict[str, Any] = {}
    for field in attrs.fields(Trajectories):
        parts = [getattr(batch, field.name) for batch in batches]
        arrays[field.name] = None if any(part is None for part in parts) else np.concatenate(parts)
    return Trajectories(**arrays)


@runtime_checkable
class Simulator(Protocol):
    """The follower's MDP at one x, seen through `reset` and `step` only."""

    @property
    def spec(self) -> FollowerSpec:
        """What may be known of it."""

    def reset(self, count: int, rng: np.random.Generator) -> Values:
        """Start `count` environments from the initial distribution; their observations (count, …)."""

    def step(self, actions: Values, rng: np.random.Generator) -> Step:
        """Act once in each environment, (count, …)."""

    def rollout(self, policy: Array | Policy, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """`count` trajectories of `horizon` steps under a policy, from the initial distribution.

        `rollout_by_steps` is an implementation by `reset` and `step`.
        """


@runtime_checkable
class SupportsRestart(Simulator, Protocol):
    """A simulator whose environments can be put into a state that was visited before.

    The states are those that its trajectories hold (`Trajectories.restart_states`): the observations, where they say
    all, as in tables; else what the simulator captures at each visit, such as the clone of an emulator or the positions
    and velocities of a mechanism. What is captured must not hold the environment's random numbers: those of the
    continuation come from `rng`, and are independent of the trajectory's.
    """

    def rollout_from(
        self,
        states: Values,
        actions: Values | None,
        policy: Array | Policy,
        horizon: int,
        rng: np.random.Generator,
    ) -> Trajectories:
        """One trajectory from each state (N, …); the first action is given (N, …), or drawn from the policy (None)."""


@runtime_checkable
class SupportsVisits(SupportsRestart, Protocol):
    """A simulator of a table that adds up the visits of continuations without recording them."""

    def signed_visits(
        self,
        observations: Indices,
        actions: Indices,
        weights: Array,
        policy: Array | Policy,
        rng: np.random.Generator,
        *,
        truncation: int | None,
        common_random_numbers: bool,
    ) -> tuple[Array, int]:
        """`Σ_j w_j (d̂_(s_j,a_j) − d̂_(s_j))` (S, A), and the number of transitions drawn for it.

        Each `d̂` counts the visits of one continuation: of T steps, discounted, or of a geometric random length
        (`truncation` None), undiscounted. In distribution it is what `rollout_from` would give; see
        `restarted_occupancy`, which uses it.
        """


@runtime_checkable
class SupportsGroups(Simulator, Protocol):
    """A simulator in which something is drawn once for a group of trajectories: its context."""

    def rollout_groups(
        self, policy: Array | Policy, groups: int, size: int, horizon: int, rng: np.random.Generator
    ) -> Trajectories:
        """`groups · size` trajectories of `horizon` steps, of which `size` consecutive ones share a context.

        Given the context they are independent; each alone is distributed as one of `rollout`.
        """


def rollout_by_steps(
    simulator: Simulator, policy: Array | Policy, count: int, horizon: int, rng: np.random.Generator
) -> Trajectories:
    """`count` trajectories by `reset` and `step`, side by side: a `Simulator.rollout` for any simulator."""
    check_batch(count, horizon)
    return recorded(simulator, as_policy(policy), simulator.reset(count, rng), None, horizon, rng)


def recorded(
    simulator: Any,
    policy: Policy,
    observations: Values,
    actions: Values | None,
    horizon: int,
    rng: np.random.Generator,
    capture: Any = None,
) -> Trajectories:
    """Trajectories of environments that have been put where they start, by `step`; one call of the policy a step.

    Args:
        simulator: its environments show `observations`.
        policy: acts.
        observations: (N, …) where the trajectories start.
        actions: (N, …) the first actions, or None to draw them.
        horizon: H.
        rng: the generator.
        capture: returns the environments' states (N, …) when called, for `Trajectories.states`; None for no states.
    """
    seen, taken, steps = [observations], [], []
    states = [] if capture is None else [capture()]
    for h in range(horizon):
        taken.append(actions if h == 0 and actions is not None else policy.sample(seen[-1], rng))
        step: Step = simulator.step(taken[-1], rng)
        steps.append(step)
        seen.append(step.observations)
        if capture is not None:
            states.append(capture())
    paid = [step.environment_rewards for step in steps]
    return Trajectories(
        np.stack(seen, axis=1),
        np.stack(taken, axis=1),
        np.stack([step.rewards for step in steps], axis=1),
        None if any(rewards is None for rewards in paid) else np.stack(paid, axis=1),  # type: ignore[arg-type]
        np.stack([step.terminated for step in steps], axis=1),
        np.stack(states, axis=1) if states else None,
    )


def draw_groups(
    simulator: Simulator, policy: Array | Policy, groups: int, size: int, horizon: int, rng: np.random.Generator
) -> Trajectories:
    """`groups · size` trajectories; those of a group share a context where the simulator knows of any."""
    if isinstance(simulator, SupportsGroups):
        return simulator.rollout_groups(policy, groups, size, horizon, rng)
    return simulator.rollout(policy, groups * size, horizon, rng)


def check_batch(count: int, horizon: int) -> None:
    """Raise `InputError` where so many trajectories of so many steps are none, or more than fit into memory."""
    check_count("count", count)
    check_count("horizon", horizon)
    check_fits("a batch of trajectories", (count, horizon, ARRAYS_OF_A_TABLE))


def checked_indices(field: str, value: object, count: int, size: int) -> npt.NDArray[np.int64]:
    """`value` as (count,) integers in [0, size), or an `InputError`."""
    array = np.asarray(value)
    if array.shape != (count,):
        raise InputError(f"the shape of {field}", shape_words(array.shape), f"{shape_words((count,))}, one each")
    if array.dtype.kind not in "iu" and array.size:
        raise InputError(field, f"an array of {array.dtype}", "integers")
    indices = np.ascontiguousarray(array, dtype=np.int64)
    # As an unsigned number what is negative is far too large.
    if indices.size and indices.view(np.uint64).max() >= size:
        index = int(((array < 0) | (array >= size)).argmax())
        raise InputError(f"{field}[{index}]", str(array[index]), f"an index from 0 to {size - 1}")
    return indices
