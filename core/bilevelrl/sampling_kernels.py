"""Compiled loops for sampling; numba is imported with this module, so import it where a kernel is called."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from bilevelrl.validation import Array, Indices

# So many trajectories advance side by side: while one waits for memory, the others go on.
ABREAST = 32


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fill_alias_table(starts: Indices, labels: Indices, weights: Array, entries: Any) -> None:
    """Vose's alias table of each row: see `transitions.ALIAS_ENTRY`. O(entries).

    Args:
        starts: (R + 1,) where each row's entries begin; no row is empty.
        labels: (E,) what an entry stands for, below 2^31.
        weights: (E,) not negative, in each row proportional to the probabilities. A zero is never chosen.
        entries: (E,) of `ALIAS_ENTRY`, written.
    """
    longest = 0
    for row in range(starts.size - 1):
        longest = max(longest, starts[row + 1] - starts[row])
    waiting = np.empty(longest, np.int64)
    for row in range(starts.size - 1):
        low, high = starts[row], starts[row + 1]
        total = 0.0
        for e in range(low, high):
            total += weights[e]
        scale = (high - low) / total
        # Entries with less than an even share wait at the front, those with more at the back.
        poor, rich = 0, high - low
        for e in range(low, high):
            entries[e].threshold = weights[e] * scale
            entries[e].labels = labels[e] | (labels[e] << 32)
            if entries[e].threshold < 1.0:
                waiting[poor] = e
                poor += 1
            else:
                rich -= 1
                waiting[rich] = e
        while poor > 0 and rich < high - low:
            poor -= 1
            taker, giver = waiting[poor], waiting[rich]
            entries[taker].labels = labels[taker] | (labels[giver] << 32)
            entries[giver].threshold -= 1.0 - entries[taker].threshold
            if entries[giver].threshold < 1.0:
                rich += 1
                waiting[poor] = giver
                poor += 1
        # What is left has an even share, up to rounding.
        for i in range(poor):
            entries[waiting[i]].threshold = 1.0
        for i in range(rich, high - low):
            entries[waiting[i]].threshold = 1.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _label(entry: Any, fraction: float) -> int:
    """One of the entry's two labels. The choice is a shift: a branch would be mispredicted every second time."""
    return int((entry.labels >> (np.int64(fraction >= entry.threshold) << 5)) & 0xFFFFFFFF)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rotated(word: Any, left: int) -> Any:
    return (word << np.uint64(left)) | (word >> np.uint64(64 - left))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unit(word: Any) -> float:
    """The upper 53 bits as a number in [0, 1)."""
    return np.int64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _two_uniforms(streams: Any, i: int) -> tuple[float, float]:
    """The next two numbers of stream i: xoshiro256++ (Blackman and Vigna 2021), period 2^256 − 1."""
    a, b, c, d = streams[i, 0], streams[i, 1], streams[i, 2], streams[i, 3]
    first = _unit(_rotated(a + d, 23) + a)
    shifted = b << np.uint64(17)
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = _rotated(d, 45)
    second = _unit(_rotated(a + d, 23) + a)
    shifted = b << np.uint64(17)
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = _rotated(d, 45)
    streams[i, 0], streams[i, 1], streams[i, 2], streams[i, 3] = a, b, c, d
    return first, second


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def rollout(
    starts: Indices,
    entries: Any,
    policy: Any,
    rewards: Array,
    streams: Any,
    first_states: Indices,
    first_actions: Indices,
    visited: Indices,
    taken: Indices,
    paid: Array,
) -> None:
    """Fill `visited` (N, H+1), `taken` and `paid` (N, H) with trajectories; a first action of −1 is drawn.

    Args:
        starts: (S·A + 1,) where each row's entries begin.
        entries: (nnz,) alias table of the next states.
        policy: (S·A,) alias table of the actions.
        rewards: (S, A).
        streams: (N, 4 or more) 64-bit words, trajectory i's random stream, advanced two numbers a step.
        first_states: (N,).
        first_actions: (N,).
        visited: (N, H+1), written.
        taken: (N, H), written.
        paid: (N, H), written.
    """
    count, horizon = taken.shape
    actions, flat_rewards = rewards.shape[1], rewards.reshape(-1)
    here, slots = np.empty(ABREAST, np.int64), np.empty(ABREAST, np.int64)
    rows, fractions = np.empty(ABREAST, np.int64), np.empty(ABREAST)
    for begin in range(0, count, ABREAST):
        abreast = min(ABREAST, count - begin)
        for j in range(abreast):
            here[j] = visited[begin + j, 0] = first_states[begin + j]
        for h in range(horizon):
            # Short loops, so that the processor has the memory accesses of many trajectories under way at once.
            for j in range(abreast):
                i = begin + j
                for_action, fractions[j] = _two_uniforms(streams, i)
                scaled = for_action * actions
                slot = np.int64(scaled)
                action = _label(policy[here[j] * actions + slot], scaled - slot)
                if h == 0 and first_actions[i] >= 0:
                    action = first_actions[i]
                taken[i, h] = action
                rows[j] = here[j] * actions + action
            for j in range(abreast):
                low = starts[rows[j]]
                scaled = fractions[j] * (starts[rows[j] + 1] - low)
                slot = np.int64(scaled)
                slots[j], fractions[j] = low + slot, scaled - slot
                paid[begin + j, h] = flat_rewards[rows[j]]
            for j in range(abreast):
                here[j] = visited[begin + j, h + 1] = _label(entries[slots[j]], fractions[j])
