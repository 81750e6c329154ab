"""How the strategies draw an MDP, and how x enters it.

The design makes a failing example shrink to a small, readable problem:

- Hypothesis draws every number, as a small integer or a simple fraction of one. Several numbers are the digits of one
  integer, which is fast; the integer is smaller if fewer entries differ from zero and if they come earlier.
- Alternatives are listed simplest first.
- The number of drawn integers does not depend on S and A (tables are drawn in their largest size and cut), so that the
  rest of an example stays the same while S and A shrink.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import scipy.sparse
from hypothesis import strategies as st

import bilevelrl as bl
from bilevelrl.testing.drawn import DrawnParametricMDP, DrawnSoftMDP, TanhReward
from bilevelrl.validation.errors import value_words
from bilevelrl.validation.fields import Validator

Numbers = float | st.SearchStrategy[float] | None
Parts = Iterable[str] | None

PARTS = ("rewards", "transitions", "initial")

_SUBSETS = (
    ("rewards",),
    ("transitions",),
    ("initial",),
    ("rewards", "transitions"),
    ("rewards", "initial"),
    ("transitions", "initial"),
    PARTS,
)
_DISCOUNTS = st.sampled_from((0.0, 0.5, 0.9, 0.99)) | st.floats(0.01, 0.99)
SHORT_DISCOUNTS = st.sampled_from((0.0, 0.5, 0.9)) | st.floats(0.01, 0.9)
_EXPONENTS = st.floats(np.log10(0.05), 1.0)
_TEMPERATURES = st.sampled_from((1.0, 0.1, 10.0)) | _EXPONENTS.map(lambda e: min(max(10.0**e, 0.05), 10.0))
EITHER = st.booleans()
_KERNELS = st.sampled_from(("deterministic", "mixed", "noisy", "slightly noisy"))
_LAST_STATES = st.sampled_from(("ordinary", "absorbing", "unreachable"))
_REWARDS = st.sampled_from(("zero", "goal", "ties", "any"))
_SCALES = st.sampled_from((1.0, 1.0, 1.0, 100.0))
_INITIALS = st.sampled_from(("uniform", "one state", "any"))
_EVERYWHERE_INITIALS = st.sampled_from(("uniform", "any"))
_MEASURES = np.array((1.0, 2.0, 0.5, 0.1, 10.0, 0.01, 100.0, 0.001))
_SLIGHT = 1e-6
# With many flags the number of True ones is nearly constant.
_FLAGS = 8

WEIGHTS = np.arange(8.0)
HALVES = 0.5 * np.array((0, 1, -1, 2, -2, 3, -3, 4))
QUARTERS = 0.25 * np.array((0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8))


def _optional(check: Validator) -> Validator:
    """Accepts a strategy and None in addition to what `check` accepts."""

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None or isinstance(value, st.SearchStrategy):
            return
        try:
            check(instance, attribute, value)
        except bl.InputError as error:
            raise bl.InputError(error.field, error.value, f"{error.expected}, a strategy, or None") from None

    return validate


def _is_flag_or_none(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (value is None or isinstance(value, bool)):
        raise bl.InputError(attribute.name, value_words(value), "True, False, or None for either")


def _as_parts(value: Any) -> tuple[str, ...] | None:
    """The parts named, in the order of `PARTS`."""
    if value is None:
        return None
    named = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not named or any(name not in PARTS for name in named):
        raise bl.InputError("parts", value_words(value), f"one or more of {', '.join(map(repr, PARTS))}, or None")
    return tuple(name for name in PARTS if name in named)


@attrs.frozen(kw_only=True)
class MDPOptions:
    """The arguments of `soft_mdps`, checked; those of `parametric_mdps` add the last three."""

    max_states: int = attrs.field(validator=bl.validation.is_integer(at_least=1))
    max_actions: int = attrs.field(validator=bl.validation.is_integer(at_least=1))
    discount: Numbers = attrs.field(validator=_optional(bl.validation.is_real(at_least=0.0, below=1.0)))
    temperature: Numbers = attrs.field(validator=_optional(bl.validation.is_real(above=0.0)))
    sparse: bool | None = attrs.field(validator=_is_flag_or_none)
    reference: bool | None = attrs.field(validator=_is_flag_or_none)
    reachable: bool = attrs.field(validator=bl.validation.is_flag())
    parts: tuple[str, ...] | None = attrs.field(default=None, converter=_as_parts)
    linear: bool | None = attrs.field(default=None, validator=_is_flag_or_none)
    dimension: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))


def _drawn_number(draw: st.DrawFn, given: Numbers, default: st.SearchStrategy[float]) -> float:
    if isinstance(given, st.SearchStrategy):
        return draw(given)
    return draw(default) if given is None else float(given)


def _drawn_flag(draw: st.DrawFn, given: bool | None) -> bool:
    return draw(EITHER) if given is None else given


# Numbers.

# Hypothesis draws integers up to 24 bits uniformly, and larger ones mostly small.
_BITS = 24


@functools.lru_cache(maxsize=256)
def _integers_of(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


def digits(draw: st.DrawFn, count: int, bits: int, group: int | None = None) -> npt.NDArray[np.int64]:
    """`count` numbers of so many bits, the first of them the low digits of the last integer drawn.

    Each integer contains as many as fit, or `group` of them if that many fit.
    """
    each = _BITS // bits if group is None else min(_BITS // bits, group)
    sizes = [min(each, count - first) for first in range(0, count, each)]
    drawn = [draw(_integers_of(bits * size)) for size in reversed(sizes)][::-1]
    places = bits * np.arange(each)
    read: npt.NDArray[np.int64] = (np.array(drawn)[:, None] >> places) & (2**bits - 1)
    return read.reshape(-1)[:count]


def _index(draw: st.DrawFn, count: int) -> int:
    """From 0 to `count` − 1; an integer is drawn even if there is only one choice."""
    return draw(_integers_of(6)) % count


def drawn_entries(draw: st.DrawFn, shape: tuple[int, ...], levels: bl.Array) -> bl.Array:
    """An array of entries among eight or sixteen `levels`, the first of them the simplest."""
    read = digits(draw, math.prod(shape), len(levels).bit_length() - 1)
    return np.asarray(levels[read].reshape(shape))


def distributions(weights: bl.Array) -> bl.Array:
    """Each row divided by its sum; a row of zeros becomes one at its first entry."""
    weights[..., 0] += weights.sum(axis=-1) == 0.0
    normalised: bl.Array = weights / weights.sum(axis=-1, keepdims=True)
    return normalised


# Tables.


@attrs.frozen(eq=False, kw_only=True)
class Tables:
    """The numbers of an MDP.

    Args:
        most: the largest S and A; tables are drawn in this size.
        kernel: P (S, A, S).
        rewards: r (S, A).
        discount: γ.
        temperature: τ.
        initial: ρ (S,), or None for uniform.
        reference: μ (S, A), or None.
        sparse: how P is stored.
    """

    most: tuple[int, int]
    kernel: bl.Array
    rewards: bl.Array
    discount: float
    temperature: float
    initial: Any
    reference: bl.Array | None
    sparse: bool

    @property
    def shape(self) -> tuple[int, int]:
        """S and A."""
        return self.rewards.shape[0], self.rewards.shape[1]

    def stored_kernel(self) -> Any:
        """P as the library takes it."""
        flat = self.kernel.reshape(-1, self.kernel.shape[2])
        return scipy.sparse.csr_array(flat) if self.sparse else self.kernel


def _drawn_size(draw: st.DrawFn, most: int) -> int:
    """From 1 to `most`. Hypothesis makes flags False before it simplifies tables, but lowers integers after."""
    return 1 + (sum(draw(EITHER) for _ in range(most - 1)) if most <= _FLAGS else draw(st.integers(0, most - 1)))


def drawn_tables(draw: st.DrawFn, options: MDPOptions, shape: tuple[int, int] | None = None) -> Tables:
    """The numbers of an MDP, whose sizes are drawn if no `shape` (S, A) is given."""
    most = (options.max_states, options.max_actions) if shape is None else shape
    if shape is None:
        shape = _drawn_size(draw, most[0]), _drawn_size(draw, most[1])
    return Tables(
        most=most,
        discount=_drawn_number(draw, options.discount, _DISCOUNTS),
        temperature=_drawn_number(draw, options.temperature, _TEMPERATURES),
        sparse=_drawn_flag(draw, options.sparse),
        kernel=_drawn_kernel(draw, shape, most),
        rewards=_drawn_rewards(draw, shape, most),
        initial=_drawn_initial(draw, shape[0], most[0], options.reachable),
        reference=_drawn_reference(draw, shape, most) if _drawn_flag(draw, options.reference) else None,
    )


def _drawn_kernel(draw: st.DrawFn, shape: tuple[int, int], most: tuple[int, int]) -> bl.Array:
    """P (S, A, S): rows deterministic, noisy, or both; the last state may be absorbing, or never entered."""
    (states, actions), kind = shape, draw(_KERNELS)
    last = draw(_LAST_STATES)
    kernel = np.zeros((*shape, states))
    if kind != "noisy":
        targets = digits(draw, math.prod(most), most[0].bit_length()).reshape(most)[:states, :actions]
        kernel = np.eye(states)[targets % states]
    if kind != "deterministic":
        # One integer for each row, so that rows are simplified one by one.
        rows = WEIGHTS[digits(draw, math.prod(most) * most[0], 3, most[0])]
        weights = rows.reshape(*most, most[0])[:states, :actions, :states]
        if kind == "mixed":
            kernel[weights.sum(axis=2) > 0] = 0.0
        kernel += (_SLIGHT if kind == "slightly noisy" else 1.0) * weights
    if last == "unreachable" and states > 1:
        kernel[:, :, -1] = 0.0
    if last == "absorbing":
        kernel[-1] = np.eye(states)[-1]
    return distributions(kernel)


def _drawn_rewards(draw: st.DrawFn, shape: tuple[int, int], most: tuple[int, int]) -> bl.Array:
    """r (S, A): zero, one state that pays, ties in every state, or any; sometimes a hundred times as large."""
    (states, actions), kind = shape, draw(_REWARDS)
    rewards = np.zeros(shape)
    if kind == "goal":
        rewards[_index(draw, states)] = 1.0
    elif kind == "ties":
        rewards += drawn_entries(draw, most[:1], QUARTERS)[:states, None]
    elif kind == "any":
        rewards += drawn_entries(draw, most, QUARTERS)[:states, :actions]
    return rewards if kind == "zero" else rewards * draw(_SCALES)


def _drawn_initial(draw: st.DrawFn, states: int, most: int, reachable: bool) -> Any:
    """ρ (S,), or None for uniform."""
    kind = draw(_EVERYWHERE_INITIALS if reachable else _INITIALS)
    if kind == "uniform":
        return None
    if kind == "one state":
        return np.asarray(np.eye(states)[_index(draw, states)])
    return distributions(drawn_entries(draw, (most,), WEIGHTS)[:states] + float(reachable))


def _drawn_reference(draw: st.DrawFn, shape: tuple[int, int], most: tuple[int, int]) -> bl.Array:
    """μ (S, A): a policy, or a measure that is not normalised and spans five orders of magnitude."""
    normalised = draw(EITHER)
    measure = drawn_entries(draw, most, _MEASURES)[: shape[0], : shape[1]]
    return distributions(measure) if normalised else measure


def mdp_of(tables: Tables) -> bl.SoftMDP:
    """The MDP of these numbers."""
    return DrawnSoftMDP(
        tables.stored_kernel(),
        tables.rewards,
        tables.discount,
        tables.temperature,
        tables.initial,
        tables.reference,
    )


# Parts that depend on x.

# Without a `dimension` there are at most three features; only small tables have one parameter for each entry.
_FEATURES = 3
_ENTRIES = 8

_REWARD_PARTS = {
    None: st.sampled_from(("states", "linear", "table", "tanh")),
    True: st.sampled_from(("states", "linear", "table")),
    False: st.just("tanh"),
}


def _drawn_features(draw: st.DrawFn, tables: Tables, room: int | None, shape: tuple[int, ...], kept: Any) -> Any:
    """φ (rows, k), multiples of 1/2, for the entries `kept` of a table; sometimes sparse if the kernel is."""
    count = draw(st.integers(1, _FEATURES if room is None else room))
    features = drawn_entries(draw, (count, *shape), HALVES)
    dense = np.ascontiguousarray(features[(slice(None), *map(slice, kept.shape))][:, kept].T)
    return scipy.sparse.csr_array(dense) if draw(EITHER) and tables.sparse else dense


def _has_room(entries: int, room: int | None) -> bool:
    """Whether each entry may have a parameter of its own."""
    return entries <= (_ENTRIES if room is None else room)


def _reward_part(draw: st.DrawFn, tables: Tables, linear: bool | None, room: int | None) -> Any:
    rewards, (states, _), kind = tables.rewards, tables.shape, draw(_REWARD_PARTS[linear])
    # Drawn for every kind, because a kind that draws less would count as simpler.
    count = 1 + _index(draw, states if room is None else min(states, room))
    first = _index(draw, states - count + 1)
    if kind == "table" and _has_room(rewards.size, room):
        return bl.parametric.TabularReward(rewards)
    if kind in ("table", "states"):
        return bl.parametric.StateReward(rewards, np.arange(first, first + count))
    features = _drawn_features(draw, tables, room, tables.most, np.ones(tables.shape, dtype=bool))
    return TanhReward(rewards, features) if kind == "tanh" else bl.parametric.LinearReward(rewards, features)


def _transitions_part(draw: st.DrawFn, tables: Tables, room: int | None) -> Any:
    kept = tables.kernel > 0
    if draw(EITHER) and _has_room(int(kept.sum()), room):
        return bl.parametric.SoftmaxTransitions(tables.stored_kernel())
    features = _drawn_features(draw, tables, room, (*tables.most, tables.most[0]), kept)
    return bl.parametric.SoftmaxTransitions(tables.stored_kernel(), features)


def _initial_part(draw: st.DrawFn, tables: Tables, room: int | None) -> Any:
    states = tables.shape[0]
    base = np.full(states, 1.0 / states) if tables.initial is None else tables.initial
    if draw(EITHER) and _has_room(states, room):
        return bl.parametric.SoftmaxInitial(base)
    return bl.parametric.SoftmaxInitial(
        base, _drawn_features(draw, tables, room, tables.most[:1], np.ones(states, dtype=bool))
    )


def _placed(draw: st.DrawFn, parts: dict[str, Any], dimension: int | None) -> dict[str, Any]:
    """The parts, each reading its block of one x; blocks may overlap, and entries of x may stay unused."""
    slack = draw(st.integers(0, 2)) if dimension is None else 0
    n = max(part.dimension for part in parts.values()) + slack if dimension is None else dimension
    starts = {name: _index(draw, n - part.dimension + 1) for name, part in parts.items()}
    return {
        name: part if part.dimension == n else bl.parametric.Slice(part, starts[name], n)
        for name, part in parts.items()
    }


def drawn_lower(draw: st.DrawFn, options: MDPOptions) -> bl.ParametricMDP:
    """A follower whose MDP depends on x."""
    tables, room = drawn_tables(draw, options), options.dimension
    names = draw(st.sampled_from(_SUBSETS)) if options.parts is None else options.parts
    parts = dict[str, Any]()
    if "rewards" in names:
        parts["rewards"] = _reward_part(draw, tables, options.linear, room)
    if "transitions" in names:
        parts["transitions"] = _transitions_part(draw, tables, room)
    if "initial" in names:
        parts["initial"] = _initial_part(draw, tables, room)
    placed = _placed(draw, parts, room)
    return DrawnParametricMDP(
        placed.get("transitions", tables.stored_kernel()),
        placed.get("rewards", tables.rewards),
        tables.discount,
        tables.temperature,
        placed.get("initial", tables.initial),
        tables.reference,
    )
