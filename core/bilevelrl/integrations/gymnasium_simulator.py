"""Any Gymnasium environment with discrete observations and actions as a `Simulator`, used through `step` alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from bilevelrl.sampling.simulators import (
    FollowerSpec,
    Step,
    Trajectories,
    check_batch,
    checked_indices,
    cumulative_rows,
)
from bilevelrl.validation.arrays import Array, Indices, as_array
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.fields import check_count, is_integer

LARGEST_SEED = 2**31


class _Pool(threading.local):
    """The environments of each thread."""

    def __init__(self) -> None:
        self.environments: list[Any] = []


@attrs.frozen(eq=False)
class GymnasiumWorld:
    """Makes simulators of a Gymnasium environment for tables of rewards: the `world` of a `SampledMDP`.

    Environments are alive: each thread has its own, and another process, to which the world is sent, makes its own.

    The environment's own time limit plays no part (make it with `max_episode_steps=-1`); an episode that terminates
    stays in its last state, where the environment is not asked again.

    Args:
        make: makes one environment.
        discount: γ.
        temperature: τ.
        environments: how many environments are stepped in turn. The trajectories do not depend on it.
        reference: μ (S, A), or None.

    Raises:
        InputError: where observations or actions are not `Discrete`.
    """

    make: Callable[[], Any]
    discount: float
    temperature: float
    environments: int = attrs.field(default=8, validator=is_integer(at_least=1))
    reference: Array | None = None
    _own: _Pool = attrs.field(init=False, factory=lambda: _Pool(), repr=False)
    spec: FollowerSpec = attrs.field(init=False)

    @spec.default
    def _specified(self) -> FollowerSpec:
        (env,) = self.pool(1)
        states, actions = (_size(env, space) for space in ("observation_space", "action_space"))
        return FollowerSpec(states, actions, self.discount, self.temperature, self.reference)

    def __call__(self, rewards: Array) -> GymnasiumSimulator:
        """A simulator that pays the follower these rewards (S, A) instead of the environment's own."""
        table = as_array("rewards", rewards, (self.spec.states, self.spec.actions))
        return GymnasiumSimulator(self, table)

    def pool(self, count: int) -> list[Any]:
        """`count` environments of this thread, made at first need and kept."""
        pool = self._own.environments
        while len(pool) < count:
            pool.append(self.make())
        return pool[:count]

    def __reduce__(self) -> Any:
        return GymnasiumWorld, (self.make, self.discount, self.temperature, self.environments, self.reference)


class GymnasiumSimulator:
    """One `GymnasiumWorld` with one table of rewards.

    Trajectory i has its own row of random numbers: one for the environment's seed, one for each action.
    """

    def __init__(self, world: GymnasiumWorld, rewards: Array) -> None:
        self._world = world
        self._rewards = rewards
        self._here: Indices = np.zeros(0, dtype=np.int64)
        self._ended = np.zeros(0, dtype=bool)

    @property
    def spec(self) -> FollowerSpec:
        """What may be known of it."""
        return self._world.spec

    def reset(self, count: int, rng: np.random.Generator) -> Indices:
        """See `Simulator.reset`; takes `count` environments."""
        check_count("count", count)
        envs = self._world.pool(count)
        self._here = np.array([self._reset(env, u) for env, u in zip(envs, rng.random(count), strict=True)])
        self._ended = np.zeros(count, dtype=bool)
        return self._here.copy()

    def step(self, actions: Indices, rng: np.random.Generator) -> Step:
        """See `Simulator.step`; the environments' own randomness was seeded by `reset`."""
        chosen = checked_indices("actions", actions, self._here.size, self.spec.actions)
        rewards = self._rewards[self._here, chosen]
        for index, env in enumerate(self._world.pool(chosen.size)):
            if not self._ended[index]:
                self._here[index], self._ended[index], _ = self._step(env, int(chosen[index]))
        return Step(self._here.copy(), rewards, self._ended.copy())

    def rollout(self, policy: Array, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """See `Simulator.rollout`."""
        check_batch(count, horizon)
        uniforms = rng.random((count, 1 + horizon))
        cumulative = cumulative_rows(as_array("policy", policy, (self.spec.states, self.spec.actions)))
        visited = np.empty((count, horizon + 1), dtype=np.int64)
        taken = np.empty((count, horizon), dtype=np.int64)
        paid = np.zeros((count, horizon))
        envs = self._world.pool(min(self._world.environments, count))
        for i in range(count):
            env = envs[i % len(envs)]
            state, ended = self._reset(env, uniforms[i, 0]), False
            visited[i, 0] = state
            for h in range(horizon):
                action = int(np.searchsorted(cumulative[state], uniforms[i, 1 + h], side="right"))
                if not ended:
                    state, ended, paid[i, h] = self._step(env, action)
                visited[i, h + 1], taken[i, h] = state, action
        return Trajectories(visited, taken, self._rewards[visited[:, :-1], taken], paid)

    def _reset(self, env: Any, uniform: float) -> int:
        observation, _ = env.reset(seed=int(uniform * LARGEST_SEED))
        return int(observation)

    def _step(self, env: Any, action: int) -> tuple[int, bool, float]:
        observation, reward, terminated, truncated, _ = env.step(action)
        if not math.isfinite(reward):
            raise InputError(f"the reward of {env}", str(reward), "a finite number")
        if truncated and not terminated:
            raise InputError(
                f"an episode of {env}", "cut off by a time limit", "gymnasium.make(…, max_episode_steps=-1)"
            )
        return int(observation), bool(terminated), float(reward)


def _size(env: Any, name: str) -> int:
    space = getattr(env, name)
    size, start = getattr(space, "n", None), getattr(space, "start", 0)
    if type(space).__name__ != "Discrete" or size is None or start != 0:
        raise InputError(
            f"{name} of {getattr(getattr(env, 'spec', None), 'id', None) or type(env).__name__}",
            value_words(space),
            "Discrete(n) starting at 0, since the tabular components need a finite table; continuous spaces need a "
            "plugin with function approximation",
        )
    return int(size)
