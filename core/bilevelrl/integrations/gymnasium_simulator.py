"""Simulators of Gymnasium environments whose spaces are arrays, through `reset` and `step` only."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from bilevelrl.integrations.gymnasium_tables import environment_name
from bilevelrl.occupancy import Values
from bilevelrl.protocols import Policy
from bilevelrl.sampling.policies import as_policy, as_table, cumulative_rows
from bilevelrl.sampling.simulators import (
    FollowerSpec,
    Step,
    Trajectories,
    check_batch,
    checked_indices,
    recorded,
    rollout_by_steps,
)
from bilevelrl.sampling.spaces import table_size
from bilevelrl.validation.arrays import Array, as_array, as_array_unchecked, check_shape
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.fields import check_count, is_integer

LARGEST_SEED = 2**31


class _Pool(threading.local):
    """The environments of each thread."""

    def __init__(self) -> None:
        self.environments: list[Any] = []


@attrs.frozen(eq=False)
class GymnasiumWorld:
    """Makes simulators of a Gymnasium environment for given rewards: the `world` of a `SampledMDP`.

    Environments have state: each thread has its own, and another process that receives this object makes its own.

    The environment must have no time limit (make it with `max_episode_steps=-1`), since truncation is not termination.
    Steps after a termination are padding: they repeat the last observation and have reward zero.

    Args:
        make: makes one environment.
        discount: γ.
        temperature: τ.
        environments: the number of environments that are stepped in turn for a table of probabilities; the trajectories
            do not depend on it. Under any other policy each trajectory has an environment of its own.
        reference: μ: (S, A), a `Policy`, or None.
        capture: `(environment) ↦ state`, the state that restores an environment, without its random numbers, such as
            `env.unwrapped.clone_state()` of an emulator. With `restore`, the simulators are `SupportsRestart`.
        restore: `(environment, state) ↦ None`, sets an environment that has just been reset to such a state.

    Raises:
        InputError: if observations or actions are not arrays (Tuple, Dict, Text, …), or are `Discrete` with a start
            other than zero.
    """

    make: Callable[[], Any]
    discount: float
    temperature: float
    environments: int = attrs.field(default=8, validator=is_integer(at_least=1))
    reference: Any = None
    capture: Callable[[Any], Any] | None = None
    restore: Callable[[Any, Any], None] | None = attrs.field(default=None)
    _own: _Pool = attrs.field(init=False, factory=lambda: _Pool(), repr=False)
    spec: FollowerSpec = attrs.field(init=False)
    """The environment's spaces, with discount, temperature and reference."""

    @restore.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if (self.capture is None) != (value is None):
            raise InputError("GymnasiumWorld", "given one of capture and restore", "both, or neither")

    @spec.default
    def _spaces(self) -> FollowerSpec:
        env = self.pool(1)[0]
        seen, taken = (_space(env, name) for name in ("observation_space", "action_space"))
        return FollowerSpec(seen, taken, self.discount, self.temperature, self.reference)

    def __call__(self, rewards: Any) -> GymnasiumSimulator:
        """A simulator that gives the follower these rewards instead of the environment's own.

        Args:
            rewards: a table (S, A), or a function `(observations, actions) ↦ (N,)`.
        """
        if not callable(rewards):
            rewards = _Table(as_array("rewards", rewards, (self.spec.states, self.spec.actions)))
        return (GymnasiumSimulator if self.restore is None else RestartableGymnasiumSimulator)(self, rewards)

    def pool(self, count: int) -> list[Any]:
        """`count` environments of this thread, made at their first use and kept."""
        pool = self._own.environments
        while len(pool) < count:
            pool.append(self.make())
        return pool[:count]

    def __reduce__(self) -> Any:
        fields = (field for field in attrs.fields(GymnasiumWorld) if field.init)
        return GymnasiumWorld, tuple(getattr(self, field.name) for field in fields)


@attrs.frozen(eq=False)
class _Table:
    """A table of rewards as a function of observations and actions."""

    table: Array

    def __call__(self, observations: Values, actions: Values) -> Array:
        return np.asarray(self.table[observations, actions])


class GymnasiumSimulator:
    """One `GymnasiumWorld` with one reward.

    Under a table of probabilities trajectory i has its own row of random numbers: one for the environment's seed, one
    for each action. Under any other policy all trajectories are stepped side by side, and the policy draws the actions
    of a step in one call.
    """

    def __init__(self, world: GymnasiumWorld, rewards: Callable[[Values, Values], Array]) -> None:
        self._world = world
        self._rewards = rewards
        self._here: Values = np.zeros(0, dtype=np.int64)
        self._ended = np.zeros(0, dtype=bool)

    @property
    def spec(self) -> FollowerSpec:
        """What components may use of it."""
        return self._world.spec

    def reset(self, count: int, rng: np.random.Generator) -> Values:
        """See `Simulator.reset`; uses `count` environments."""
        check_count("count", count)
        envs = self._world.pool(count)
        self._here = np.stack([self._reset(env, u) for env, u in zip(envs, rng.random(count), strict=True)])
        self._ended = np.zeros(count, dtype=bool)
        return self._here.copy()

    def step(self, actions: Values, rng: np.random.Generator) -> Step:
        """See `Simulator.step`; the environments' own randomness was seeded by `reset`."""
        chosen = self._checked_actions(actions)
        rewards = np.where(self._ended, 0.0, self._paid(self._here, chosen))
        paid = np.zeros(len(chosen))
        for index, env in enumerate(self._world.pool(len(chosen))):
            if not self._ended[index]:
                self._here[index], self._ended[index], paid[index] = self._step(env, chosen[index])
        return Step(self._here.copy(), rewards, self._ended.copy(), paid)

    def rollout(self, policy: Array | Policy, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """See `Simulator.rollout`."""
        if isinstance(policy, Policy):
            return rollout_by_steps(self, policy, count, horizon, rng)
        check_batch(count, horizon)
        uniforms = rng.random((count, 1 + horizon))
        cumulative = cumulative_rows(as_table(policy, self.spec.states, self.spec.actions))
        visited = np.empty((count, horizon + 1), dtype=np.int64)
        taken = np.empty((count, horizon), dtype=np.int64)
        paid, terminated = np.zeros((count, horizon)), np.zeros((count, horizon), dtype=bool)
        envs = self._world.pool(min(self._world.environments, count))
        for i in range(count):
            env = envs[i % len(envs)]
            state, ended = self._reset(env, uniforms[i, 0]), False
            visited[i, 0] = state
            for h in range(horizon):
                action = int(np.searchsorted(cumulative[state], uniforms[i, 1 + h], side="right"))
                if not ended:
                    state, ended, paid[i, h] = self._step(env, action)
                visited[i, h + 1], taken[i, h], terminated[i, h] = state, action, ended
        paths = Trajectories(visited, taken, np.zeros((count, horizon)), paid, terminated)
        rewards = self._paid(visited[:, :-1].reshape(-1), taken.reshape(-1)).reshape(count, horizon)
        return attrs.evolve(paths, rewards=paths.lived(rewards))

    def _paid(self, observations: Values, actions: Values) -> Array:
        return as_array_unchecked("the rewards", self._rewards(observations, actions), (len(actions),))

    def _checked_actions(self, actions: Values) -> Values:
        """One action for each environment, in the action space."""
        count, space = len(self._here), self.spec.action_space
        size = table_size(space)
        if size is not None:
            return checked_indices("actions", actions, count, size)
        chosen = np.asarray(actions)
        check_shape("actions", chosen, (count, *space.shape))
        chosen = chosen.astype(space.dtype, copy=False)
        if chosen.dtype.kind == "f" and not np.isfinite(chosen).all():
            raise InputError("actions", "not finite", f"elements of {value_words(space)}")
        return chosen

    def _reset(self, env: Any, uniform: float) -> Any:
        observation, _ = env.reset(seed=int(uniform * LARGEST_SEED))
        return self._observed(observation)

    def _observed(self, observation: Any) -> Any:
        space = self.spec.observation_space
        return np.asarray(observation, dtype=space.dtype).reshape(space.shape)

    def _step(self, env: Any, action: Any) -> tuple[Any, bool, float]:
        discrete = table_size(self.spec.action_space) is not None
        observation, reward, terminated, truncated, _ = env.step(int(action) if discrete else action)
        if not math.isfinite(reward):
            raise InputError(f"the reward of {env}", str(reward), "a finite number")
        if truncated and not terminated:
            raise InputError(
                f"an episode of {env}", "cut off by a time limit", "gymnasium.make(…, max_episode_steps=-1)"
            )
        return self._observed(observation), bool(terminated), float(reward)


class RestartableGymnasiumSimulator(GymnasiumSimulator):
    """A `GymnasiumSimulator` of a world with `capture` and `restore`: `SupportsRestart`.

    Every trajectory holds the states that were captured at its visits. An environment gets a new seed before it is
    restored, so that its continuation is independent of the trajectory from which the state was captured.
    """

    def rollout(self, policy: Array | Policy, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """See `Simulator.rollout`; each trajectory has an environment of its own, whatever the policy."""
        check_batch(count, horizon)
        return recorded(self, as_policy(policy), self.reset(count, rng), None, horizon, rng, self._capture)

    def rollout_from(
        self,
        states: Values,
        actions: Values | None,
        policy: Array | Policy,
        horizon: int,
        rng: np.random.Generator,
    ) -> Trajectories:
        """See `SupportsRestart.rollout_from`; the states are those of `Trajectories.states`."""
        check_batch(max(len(states), 1), horizon)
        if not all(isinstance(state, _Captured) for state in states):
            raise InputError("states", value_words(states), "states of the trajectories of this simulator")
        self.reset(len(states), rng)
        assert self._world.restore is not None
        for env, state in zip(self._world.pool(len(states)), states, strict=True):
            self._world.restore(env, state.state)
        self._here = np.stack([state.observation for state in states])
        self._ended = np.array([state.ended for state in states])
        first = None if actions is None else self._checked_actions(actions)
        return recorded(self, as_policy(policy), self._here.copy(), first, horizon, rng, self._capture)

    def _capture(self) -> Values:
        """(N,) the states that restore the environments."""
        assert self._world.capture is not None
        envs = self._world.pool(len(self._here))
        captured = np.empty(len(envs), dtype=object)
        for index, env in enumerate(envs):
            ended = bool(self._ended[index])
            state = None if ended else self._world.capture(env)
            captured[index] = _Captured(self._here[index].copy(), ended, state)
        return captured


@attrs.frozen(eq=False)
class _Captured:
    """A captured state: the observation, whether the episode had ended, and the environment's own state."""

    observation: Any
    ended: bool
    state: Any


def _space(env: Any, name: str) -> Any:
    """A space of an environment whose elements are arrays; otherwise raises `InputError` with a wrapper that helps."""
    space, seen = getattr(env, name), name == "observation_space"
    if getattr(space, "shape", None) is None or getattr(space, "dtype", None) is None:
        wanted, wrapper = (
            "a space of arrays (Box, Discrete, …)",
            "FlattenObservation" if seen else "TransformAction",
        )
    elif hasattr(space, "n") and tuple(space.shape) == () and table_size(space) is None:
        wanted, wrapper = "Discrete(n) starting at 0", "TransformObservation" if seen else "TransformAction"
    else:
        return space
    expected = f"{wanted}; wrap the environment in gymnasium.wrappers.{wrapper}"
    raise InputError(f"{name} of {environment_name(env)}", value_words(space), expected)
