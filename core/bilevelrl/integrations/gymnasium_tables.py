"""The transition tables that Gymnasium's toy-text environments publish, as a `SoftMDP`."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import scipy.sparse

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.transitions import DenseTransitions, SparseTransitions
from bilevelrl.validation.arrays import Array, Indices, Mask, as_distribution
from bilevelrl.validation.errors import InputError, value_words

# Above this many entries (8 MiB) a table with a few successors per row is stored sparse.
LARGEST_DENSE_TABLE = 1_000_000


def from_gymnasium(
    env: Any, *, discount: float = 0.99, temperature: float = 0.01, reference: Array | None = None
) -> SoftMDP:
    """The MDP behind a Gymnasium environment that publishes its table as `env.unwrapped.P`.

    The table maps state and action to a list of (probability, next state, reward, terminated). A state that ends an
    episode becomes absorbing with reward 0; all transitions into it must terminate. The reward of (s, a) is the
    expectation over its outcomes. The initial distribution is the environment's `initial_state_distrib`, or its reset
    state.

    Args:
        env: FrozenLake, Taxi, CliffWalking, or any environment with such a table.
        discount: γ.
        temperature: τ.
        reference: μ (S, A), or None.

    Returns:
        A dense MDP if the table is small, otherwise a sparse one; S as in the environment.

    Raises:
        InputError: if the environment publishes no table, or an invalid one.
    """
    if isinstance(env, str):
        raise InputError("env", repr(env), "an environment, such as gymnasium.make(name)")
    inner = getattr(env, "unwrapped", env)
    table: Any = getattr(inner, "P", None)
    if not hasattr(table, "__getitem__") or not hasattr(table, "__len__"):
        raise InputError(
            f"the transition table of {environment_name(env)}",
            "missing",
            "an environment with a table env.unwrapped.P, such as FrozenLake, Taxi or CliffWalking",
        )
    try:
        states, actions = len(table), len(table[0])
        outcomes = _outcomes(table, states, actions)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"the transition table of {environment_name(env)}",
            f"malformed ({type(error).__name__}: {error})",
            "table[state][action] = [(probability, next state, reward, terminated), …]",
        ) from error
    return _mdp_from_outcomes(
        outcomes, states, actions, _initial_distribution(env, states), discount, temperature, reference
    )


def _outcomes(table: Any, states: int, actions: int) -> list[tuple[int, float, int, float, bool]]:
    """(row, probability, next state, reward, terminated) of every outcome; raises if the table is invalid."""
    outcomes = []
    for s in range(states):
        if not 0 < len(table[s]) == actions:
            raise ValueError(f"state {s} has {len(table[s])} actions, state 0 has {actions}")
        for a in range(actions):
            for probability, successor, reward, ended in table[s][a]:
                if not 0 <= successor < states:
                    raise ValueError(f"table[{s}][{a}] leads to state {successor} of {states}")
                row = s * actions + a
                outcomes.append((row, float(probability), operator.index(successor), float(reward), bool(ended)))
    if not outcomes:
        raise ValueError("no outcomes")
    return outcomes


def _mdp_from_outcomes(
    outcomes: list[tuple[int, float, int, float, bool]],
    states: int,
    actions: int,
    initial: Array,
    discount: float,
    temperature: float,
    reference: Array | None,
) -> SoftMDP:
    rows, probabilities, successors, gains, ended = (np.array(column) for column in zip(*outcomes, strict=True))
    terminal = np.zeros(states, dtype=bool)
    terminal[successors[ended]] = True
    # Only reachable states count: Taxi's table has unreachable states with transitions into terminal ones.
    entered = _reachable(initial, rows[~ended] // actions, successors[~ended], states)
    passing = ~ended & entered[rows // actions] & ~terminal[rows // actions]
    ambiguous = terminal & np.isin(np.arange(states), successors[passing])
    if ambiguous.any():
        raise InputError(
            f"state {int(ambiguous.argmax())} of the transition table",
            "reached both with and without termination",
            "termination to be a property of the state",
        )
    live = ~terminal[rows // actions]
    absorbing = np.flatnonzero(np.repeat(terminal, actions))
    sums: Any = np.bincount(rows[live], weights=(probabilities * gains)[live], minlength=states * actions)
    rewards = sums.astype(np.float64, copy=False).reshape(states, actions)
    matrix = scipy.sparse.csr_array(
        (
            np.concatenate([probabilities[live], np.ones(absorbing.size)]),
            (
                np.concatenate([rows[live], absorbing]),
                np.concatenate([successors[live], absorbing // actions]),
            ),
        ),
        shape=(states * actions, states),
    )
    dense = states * actions * states <= LARGEST_DENSE_TABLE
    transitions = (
        DenseTransitions(matrix.toarray().reshape(states, actions, states)) if dense else SparseTransitions(matrix)
    )
    return SoftMDP(transitions, rewards, discount, temperature, initial, reference)


def _reachable(initial: Array, sources: Indices, targets: Indices, states: int) -> Mask:
    """Which states can be reached from the initial ones along the given edges."""
    import scipy.sparse.csgraph

    first = np.flatnonzero(initial > 0)
    # An extra node with an edge to every initial state makes this a search from a single source.
    graph = scipy.sparse.csr_array(
        (
            np.ones(sources.size + first.size),
            (np.append(sources, np.full(first.size, states)), np.append(targets, first)),
        ),
        shape=(states + 1, states + 1),
    )
    order = scipy.sparse.csgraph.breadth_first_order(graph, states, return_predecessors=False)
    reached = np.zeros(states + 1, dtype=bool)
    reached[order] = True
    return reached[:states]


def absorbing_states(mdp: SoftMDP) -> Mask:
    """Which states lead only to themselves under every action: (S,) booleans."""
    return mdp.transitions.absorbing


def _initial_distribution(env: Any, states: int) -> Array:
    published = getattr(getattr(env, "unwrapped", env), "initial_state_distrib", None)
    if published is not None:
        return as_distribution("env.unwrapped.initial_state_distrib", published, states)
    initial, start = np.zeros(states), env.reset(seed=0)[0]
    if not 0 <= start < states:
        raise InputError(f"the state that {environment_name(env)} resets to", value_words(start), f"below {states}")
    initial[start] = 1.0
    return initial


def environment_name(env: Any) -> str:
    """The id of an environment; its class if it has none."""
    spec = getattr(env, "spec", None)
    return str(getattr(spec, "id", None) or type(env).__name__)
