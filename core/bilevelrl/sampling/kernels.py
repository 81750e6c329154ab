"""Compiled loops for sampling. This module imports numba, so import it inside the functions that use it.

Trajectories advance side by side, in lanes, with one short loop over all lanes for each stage of a step. Each stage
prefetches the memory that the next stage reads, so that the waits of all lanes overlap.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from bilevelrl.execution.compilation import compiled
from bilevelrl.validation.arrays import Array, Indices

LANES = 64

# Unsigned, since numba checks whether a signed index is negative.
Word = np.uint64

GOLDEN = Word(0x9E3779B97F4A7C15)


@compiled
def fill_alias_table(starts: Indices, labels: Indices, weights: Array, entries: Any) -> None:
    """Vose's alias table of each row: see `alias_tables.ALIAS_ENTRY`. O(entries).

    Args:
        starts: (R + 1,) where each row's entries begin; no row is empty.
        labels: (E,) the label of each entry, below 2^31.
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
        # Entries with less than an equal share are listed at the front, those with more at the back.
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
        # The remaining entries have an equal share, up to rounding.
        for i in range(poor):
            entries[waiting[i]].threshold = 1.0
        for i in range(rich, high - low):
            entries[waiting[i]].threshold = 1.0


@compiled
def rollout(
    starts: Indices,
    entries: Any,
    policy: Any,
    rewards: Array,
    key: Any,
    first_index: int,
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
        key: (4,) 64-bit words that key all random streams; each stream gives two numbers per step.
        first_index: the index of the first trajectory's stream; the other trajectories have the following ones.
        first_states: (N,).
        first_actions: (N,).
        visited: (N, H+1), written.
        taken: (N, H), written.
        paid: (N, H), written.
    """
    count, horizon = taken.shape
    actions, flat_rewards = Word(rewards.shape[1]), rewards.reshape(-1)
    words, here, rows, slots, fractions = _lanes()
    for begin in range(0, count, LANES):
        abreast = min(LANES, count - begin)
        for j in range(abreast):
            _seed(words, j, key, first_index + begin + j)
            here[j] = Word(first_states[begin + j])
            visited[begin + j, 0] = first_states[begin + j]
        for h in range(horizon):
            _advance(words)
            _act(words, policy, actions, starts, here, rows, abreast)
            if h == 0:
                for j in range(abreast):
                    if first_actions[begin + j] >= 0:
                        rows[j] = here[j] * actions + Word(first_actions[begin + j])
            for j in range(abreast):
                _prefetch(flat_rewards, rows[j])
                taken[begin + j, h] = np.int64(rows[j] - here[j] * actions)
            _leave(words, starts, entries, rows, slots, fractions, abreast)
            _arrive(entries, policy, actions, slots, fractions, here, abreast)
            for j in range(abreast):
                paid[begin + j, h] = flat_rewards[rows[j]]
                visited[begin + j, h + 1] = np.int64(here[j])


@compiled
def signed_visits(
    starts: Indices,
    entries: Any,
    policy: Any,
    action_count: int,
    key: Any,
    first_pair: int,
    observations: Indices,
    actions: Indices,
    weights: Array,
    discount: float,
    truncation: int,
    together: bool,
    table: Array,
) -> int:
    """Sum the visits of two continuations of each pair (s, a): those from (s, a) minus those from s.

    When a continuation ends, the next one takes its lane at once. Two continuations that share their random numbers are
    equal from the point where they meet, and cancel: they end there, and do not begin if a is the action that the other
    one would draw.

    Args:
        starts: (S·A + 1,) where each row's entries begin.
        entries: (nnz,) alias table of the next states.
        policy: (S·A,) alias table of the actions.
        action_count: A.
        key: (5,) 64-bit words: four key all random streams, each of which gives two numbers per step; the fifth keys
            the lengths.
        first_pair: the index of the first pair, which selects its streams.
        observations: (N,) the states s.
        actions: (N,) the actions a.
        weights: (N,) the weights of the pairs' visits.
        discount: γ.
        truncation: T ≥ 1, steps of a continuation, discounted; 0 for a geometric random length, undiscounted.
        together: whether the two of a pair share their random numbers, and their length.
        table: (S·A,), to which the visits are added.

    Returns:
        The number of transitions.
    """
    action_number, width, decay = Word(action_count), 1 + together, discount if truncation else 1.0
    rate = math.log(discount) if discount > 0.0 else -math.inf
    waiting, active, drawn = 0, 0, 0
    words, here, rows, slots, fractions = _lanes()
    given, left, weight = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES)
    while True:
        lane = 0
        while lane < LANES:
            if lane < active and left[lane] > 0 and not (together and here[lane] == here[lane + 1]):
                lane += width
            elif waiting < 2 * observations.size:
                pair, from_state = waiting >> 1, waiting & 1
                index = first_pair + pair if together else 2 * first_pair + waiting
                _seed(words, lane, key, index)
                waiting += width
                here[lane], left[lane] = Word(observations[pair]), 0
                if together and _first_action(words, lane, policy, here[lane], action_number) == Word(actions[pair]):
                    continue
                left[lane] = truncation if truncation else _geometric(_word(key[4], index), rate)
                given[lane] = -1 if from_state else actions[pair]
                weight[lane] = -weights[pair] if from_state else weights[pair]
                if together:
                    _copy(words, lane, lane + 1)
                    here[lane + 1], left[lane + 1] = here[lane], left[lane]
                    given[lane + 1], weight[lane + 1] = -1, -weights[pair]
                lane += width
                active = max(active, lane)
            elif lane < active:  # no pair is left, and the last lanes move to the free ones
                active -= width
                for j in range(width):
                    _copy(words, active + j, lane + j)
                    here[lane + j], left[lane + j] = here[active + j], left[active + j]
                    given[lane + j], weight[lane + j] = given[active + j], weight[active + j]
            else:
                break
        if active == 0:
            return drawn
        _advance(words)
        _act(words, policy, action_number, starts, here, rows, active)
        drawn += active
        for j in range(active):
            if given[j] >= 0:
                rows[j] = here[j] * action_number + Word(given[j])
                given[j] = -1
            _prefetch(table, rows[j])
        _leave(words, starts, entries, rows, slots, fractions, active)
        _arrive(entries, policy, action_number, slots, fractions, here, active)
        for j in range(active):
            table[rows[j]] += weight[j]
            weight[j] *= decay
            left[j] -= 1


@compiled
def discounted_sums(table: Array, observations: Indices, actions: Indices, discount: float, sums: Array) -> None:
    """Add `Σ_h discount^h table[s_h, a_h]` of each trajectory to `sums` (N,)."""
    for i in range(actions.shape[0]):
        weight = 1.0
        for h in range(actions.shape[1]):
            sums[i] += weight * table[observations[i, h], actions[i, h]]
            weight *= discount


@compiled
def discounted_visits(weights: Array, observations: Indices, actions: Indices, discount: float, table: Array) -> None:
    """Add `weights_i discount^h` to `table[s_h, a_h]` for each step of each trajectory: the transpose."""
    for i in range(actions.shape[0]):
        weight = weights[i]
        for h in range(actions.shape[1]):
            table[observations[i, h], actions[i, h]] += weight
            weight *= discount


@compiled
def _lanes() -> Any:
    """Arrays for one step of each lane: its stream and two draws, its state, its row, its entry, a fraction."""
    words, here = np.zeros(6 * LANES, np.uint64), np.zeros(LANES, np.uint64)
    return words, here, np.zeros(LANES, np.uint64), np.zeros(LANES, np.uint64), np.zeros(LANES)


@compiled
def _act(words: Any, policy: Any, actions: Any, starts: Indices, here: Any, rows: Any, active: int) -> None:
    """Draw an action in each lane: `rows` becomes `s·A + a`."""
    for j in range(active):
        rows[j] = here[j] * actions + _action(words[4 * LANES + j], policy, here[j], actions)
        _prefetch(starts, rows[j])


@compiled
def _action(word: Any, policy: Any, state: Any, actions: Any) -> Any:
    """The action for a random word."""
    scaled = _unit(word) * np.int64(actions)
    slot = np.int64(scaled)
    return _label(policy[state * actions + Word(slot)], scaled - slot)


@compiled
def _first_action(words: Any, lane: int, policy: Any, state: Any, actions: Any) -> Any:
    """The first action that a new stream will draw."""
    return _action(_output(words[lane], words[3 * LANES + lane]), policy, state, actions)


@compiled
def _leave(words: Any, starts: Indices, entries: Any, rows: Any, slots: Any, fractions: Array, active: int) -> None:
    """Draw an entry of each lane's row, and the fraction that selects one of its two labels."""
    for j in range(active):
        low = starts[rows[j]]
        scaled = _unit(words[5 * LANES + j]) * (starts[rows[j] + Word(1)] - low)
        slot = np.int64(scaled)
        slots[j], fractions[j] = Word(low + slot), scaled - slot
        _prefetch(entries, slots[j])


@compiled
def _arrive(entries: Any, policy: Any, actions: Any, slots: Any, fractions: Array, here: Any, active: int) -> None:
    """Move each lane to the state that its entry gives."""
    for j in range(active):
        here[j] = _label(entries[slots[j]], fractions[j])
        _prefetch(policy, here[j] * actions)


@compiled
def _label(entry: Any, fraction: float) -> Any:
    """One of the entry's two labels. The choice is a shift: a branch would be mispredicted every second time."""
    return (Word(entry.labels) >> (Word(fraction >= entry.threshold) << Word(5))) & Word(0xFFFFFFFF)


@compiled
def _unit(word: Any) -> float:
    """The upper 53 bits as a number in [0, 1)."""
    return np.int64(word >> Word(11)) * (1.0 / 9007199254740992.0)


@compiled
def _rotated(word: Any, left: int) -> Any:
    return (word << Word(left)) | (word >> Word(64 - left))


@compiled
def _seed(words: Any, lane: int, key: Any, index: int) -> None:
    """Set a lane's stream to that of an index: four words, one from each key."""
    for m in range(4):
        words[m * LANES + lane] = _word(key[m], index)


@compiled
def _word(key: Any, index: int) -> Any:
    """The word of an index by SplitMix64 (Steele, Lea and Flood 2014): different indices have different words."""
    word = key + Word(index + 1) * GOLDEN
    word = (word ^ (word >> Word(30))) * Word(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> Word(27))) * Word(0x94D049BB133111EB)
    return word ^ (word >> Word(31))


@compiled
def _geometric(word: Any, rate: float) -> int:
    """A random length of at least 1, by inversion of `P(length > t) = γ^t`, with `rate` = log γ."""
    return 1 + int(math.log1p(-_unit(word)) / rate)


@compiled
def _copy(words: Any, origin: int, lane: int) -> None:
    """Copy one lane's stream to another lane."""
    for m in range(4):
        words[m * LANES + lane] = words[m * LANES + origin]


@compiled
def _output(a: Any, d: Any) -> Any:
    return _rotated(a + d, 23) + a


@compiled
def _advance(words: Any) -> None:
    """The next two words of each lane's stream: xoshiro256++ (Blackman and Vigna 2021), period 2^256 − 1.

    One array and a fixed number of lanes, so that the compiler processes several lanes with one instruction.
    """
    for j in range(LANES):
        a, b, c, d = words[j], words[LANES + j], words[2 * LANES + j], words[3 * LANES + j]
        for draw in range(4, 6):
            words[draw * LANES + j] = _output(a, d)
            shifted = b << Word(17)
            c ^= a
            d ^= b
            b ^= c
            a ^= d
            c ^= shifted
            d = _rotated(d, 45)
        words[j], words[LANES + j], words[2 * LANES + j], words[3 * LANES + j] = a, b, c, d


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Prefetch `array[index]` from memory."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        to_read, for_long, data_cache = (ir.Constant(flag, value) for value in (0, 3, 1))
        builder.call(prefetch, [address, to_read, for_long, data_cache])
        return context.get_dummy_value()

    return types.void(array, index), generate
