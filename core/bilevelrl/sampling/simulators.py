"""Simulators: the follower's environment, used only by acting in it.

The interface is close to Gymnasium's vector environments (`reset`, `step`, many environments at once), with two
differences. First, all randomness comes from the generator that is passed in: the same generator gives the same
trajectories, bit for bit. Under a table of probabilities `rollout` derives one stream per trajectory index, so that the
first trajectories do not depend on the number of the others; `reset` and `step` draw one number per environment and
call. Second, nothing resets automatically: an environment whose episode has ended is not stepped again until the next
`reset`.

Termination is a property of a transition, not of a state: the same observation may be the last one of an episode, or
not. The steps after a termination are padding: they repeat the last observation, have reward zero and are not counted.
A time limit truncates an episode, which is not a termination. The absorbing states of a table (`SoftMDP`) are ordinary
states, with rewards and entropy of their own; a `TabularSimulator` ends no episode.
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
    """What a model-free component may use of the follower's MDP.

    Args:
        observation_space: the space of observations: any object with Gymnasium's `contains`, `shape` and `dtype`;
            `Discrete(S)` for a table.
        action_space: the space of actions, likewise; `Discrete(A)` for a table.
        discount: γ.
        temperature: τ.
        reference: μ: an array (S, A) for a table; otherwise a `Policy` whose `log_probabilities` are log μ; or None for
            μ = 1.
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
        """S, the number of observations; raises `InputError` if they are not the indices of a table."""
        return _size("observation_space", self.observation_space)

    @property
    def actions(self) -> int:
        """A, the number of actions; raises `InputError` if they are not the indices of a table."""
        return _size("action_space", self.action_space)


def _size(name: str, space: Any) -> int:
    size = table_size(space)
    if size is None:
        expected = "Discrete(n) starting at 0, since this component keeps a table; use one with function approximation"
        raise InputError(f"the follower's {name}", value_words(space), expected)
    return size


@attrs.frozen(eq=False)
class Step:
    """The answers of `count` environments to one action each.

    Args:
        observations: (count, …) the new observations.
        rewards: (count,) the follower's rewards at x for the previous observation and the action; zero if the episode
            had ended before.
        terminated: (count,) whether this transition or an earlier one ended the episode.
        environment_rewards: (count,) the environment's own rewards; None if the simulator has only the follower's
            rewards.
    """

    observations: Values
    rewards: Array
    terminated: Mask
    environment_rewards: Array | None = None


@attrs.frozen(eq=False)
class Trajectories:
    """N trajectories of H steps.

    Args:
        observations: (N, H + 1, …), including the one after the last action; of any type and shape.
        actions: (N, H, …), likewise.
        rewards: (N, H), the follower's rewards at x.
        environment_rewards: (N, H), the environment's own rewards, which a labeller may use; None if the simulator has
            only the follower's rewards.
        terminated: (N, H), True from the transition that ended the episode on; the steps after that transition are
            padding. None if no episode ends.
        states: (N, H + 1, …) the states from which `SupportsRestart.rollout_from` continues each visit, such as the
            clones of an emulator (an array of objects); None if the observations are these states, as in tables.
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
        """The number of transitions drawn: N·H minus the padding."""
        return self.count * self.horizon if self.terminated is None else int(self.alive().sum())

    def alive(self) -> Mask:
        """(N, H) True for transitions that took place, False for the padding after a termination."""
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
        """(N, H + 1, …) the argument of `SupportsRestart.rollout_from`: `states`, or else the observations."""
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
        """(S, A) the sum of `weights` (N, H) over the visits to each state and action of a table, without padding."""
        flat = self.observations[:, :-1] * shape[1] + self.actions
        weights = self.lived(weights)
        sums: Any = np.bincount(flat.reshape(-1), weights=weights.reshape(-1), minlength=shape[0] * shape[1])
        table: Array = sums.reshape(shape)
        return table


def joined(batches: list[Trajectories]) -> Trajectories:
    """The trajectories of several batches of one horizon, in order; an array that one batch lacks is left out."""
    arrays: dict[str, Any] = {}
    for field in attrs.fields(Trajectories):
        parts = [getattr(batch, field.name) for batch in batches]
        arrays[field.name] = None if any(part is None for part in parts) else np.concatenate(parts)
    return Trajectories(**arrays)


@runtime_checkable
class Simulator(Protocol):
    """The follower's MDP at one x, through `reset` and `step` only."""

    @property
    def spec(self) -> FollowerSpec:
        """What components may use of it."""

    def reset(self, count: int, rng: np.random.Generator) -> Values:
        """Start `count` environments from the initial distribution; their observations (count, …)."""

    def step(self, actions: Values, rng: np.random.Generator) -> Step:
        """Take one action in each environment, (count, …)."""

    def rollout(self, policy: Array | Policy, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """`count` trajectories of `horizon` steps under a policy, from the initial distribution.

        `rollout_by_steps` implements it by `reset` and `step`.
        """


@runtime_checkable
class SupportsRestart(Simulator, Protocol):
    """A simulator whose environments can be restored to a state that was visited before.

    The states are those of its trajectories (`Trajectories.restart_states`): the observations, if they are the complete
    state, as in tables; otherwise what the simulator captures at each visit, such as the clone of an emulator or the
    positions and velocities of a mechanism. A captured state must not include the environment's random numbers: those
    of the continuation come from `rng`, and are independent of the trajectory's.
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
    """A simulator of a table that sums the visits of continuations without recording them."""

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
        (`truncation` None), undiscounted. It has the distribution of the same sums from `rollout_from`;
        `restarted_occupancy` uses it.
        """


@runtime_checkable
class SupportsGroups(Simulator, Protocol):
    """A simulator that draws a context once for each group of trajectories."""

    def rollout_groups(
        self, policy: Array | Policy, groups: int, size: int, horizon: int, rng: np.random.Generator
    ) -> Trajectories:
        """`groups · size` trajectories of `horizon` steps; `size` consecutive ones share a context.

        Given the context they are independent; each alone has the distribution of one from `rollout`.
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
    """Trajectories of environments that are in their starting states, by `step`, with one call of the policy per step.

    Args:
        simulator: a simulator whose environments are at `observations`.
        policy: the policy that acts.
        observations: (N, …) the first observations.
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
    """`groups · size` trajectories; those of a group share a context if the simulator has contexts."""
    if isinstance(simulator, SupportsGroups):
        return simulator.rollout_groups(policy, groups, size, horizon, rng)
    return simulator.rollout(policy, groups * size, horizon, rng)


def check_batch(count: int, horizon: int) -> None:
    """Raise `InputError` if the number of trajectories or steps is below one, or they do not fit into memory."""
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
    # As an unsigned number a negative value is far too large.
    if indices.size and indices.view(np.uint64).max() >= size:
        index = int(((array < 0) | (array >= size)).argmax())
        raise InputError(f"{field}[{index}]", str(array[index]), f"an index from 0 to {size - 1}")
    return indices
