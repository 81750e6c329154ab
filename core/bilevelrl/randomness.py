"""Random streams keyed by (seed, role, iteration): they need not be saved, and any iteration can be replayed alone."""

from __future__ import annotations

import functools
import hashlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISpawnableSeedSequence

from bilevelrl.protocols import Tags
from bilevelrl.validation.fields import check_count


def stream(seed: int, role: str, iteration: int = 0, substream: int = 0) -> np.random.Generator:
    """The generator of (seed, role, iteration, substream): equal keys give equal streams.

    A counter-based Philox generator: the key is a hash of seed and role, and the counter starts at (iteration,
    substream), so two streams of one key cannot overlap in fewer than 2^128 draws.

    Args:
        seed: the run's seed, an integer of at least 0.
        role: the component that draws, e.g. "lower" or "estimator".
        iteration: the outer iteration.
        substream: a worker or environment index, if one role needs several streams.
    """
    return Streams(seed).at(role, iteration, substream)


Key = tuple[int, int]
"""The key of a stream: 128 random bits."""


def split(rng: np.random.Generator, count: int) -> list[Key]:
    """Keys of `count` independent streams, drawn from a generator, for tasks that run in any place and order."""
    return [(int(first), int(second)) for first, second in rng.integers(2**64, size=(count, 2), dtype=np.uint64)]


def keyed(key: Key) -> np.random.Generator:
    """The stream of a key, from its beginning. It is cheaper than `Generator.spawn`, and a key is only two integers."""
    source: Any = _StreamSeed(key)
    return np.random.Generator(np.random.Philox(source))


class Tagged(Protocol):
    """A component that declares whether it draws random numbers."""

    @property
    def tags(self) -> Tags:
        """What it guarantees."""


class Streams:
    """The streams of one seed, for a loop that needs one in every iteration.

    Each role's bit generator is built once and repositioned, which takes a fifth of the time. A stream is therefore
    valid until the next stream of the same role is requested.
    """

    def __init__(self, seed: int) -> None:
        check_count("seed", seed, at_least=0)
        self.seed = seed
        self._generators: dict[str, tuple[_StreamSeed, np.random.Philox]] = {}

    def of(self, component: Tagged, role: str, iteration: int) -> np.random.Generator:
        """The stream for a component's call; a deterministic component gets an unused stream, which costs nothing."""
        return self._idle if component.tags.deterministic else self.at(role, iteration)

    @functools.cached_property
    def _idle(self) -> np.random.Generator:
        return self.at("idle")

    def at(self, role: str, iteration: int = 0, substream: int = 0) -> np.random.Generator:
        """See `stream`."""
        if role not in self._generators:
            seed_sequence: Any = _StreamSeed(_philox_key(self.seed, role))
            self._generators[role] = seed_sequence, np.random.Philox(seed_sequence)
        source, philox = self._generators[role]
        source.move_to(iteration, substream)
        state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": (0, 0, iteration, substream), "key": source.key},
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        philox.state = state
        return np.random.Generator(philox)


@functools.lru_cache(maxsize=256)
def _philox_key(seed: int, role: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}:{role}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


class _StreamSeed(ISpawnableSeedSequence):
    """Seeds Philox with a given key, and makes `rng.spawn` reproducible.

    `Philox(key=…)` would draw unused entropy from the operating system, which takes most of the time, and would spawn
    children from that entropy, which differ in every run.
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.move_to(0, 0)

    def move_to(self, iteration: int, substream: int) -> None:
        self.position = (iteration, substream)
        self._children: np.random.SeedSequence | None = None

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        if n_words == 2 and dtype is np.uint64:
            return np.array(self.key, dtype=np.uint64)
        return self._sequence().generate_state(n_words, dtype)

    def spawn(self, n_children: int) -> list[Any]:
        return list(self._sequence().spawn(n_children))

    def _sequence(self) -> np.random.SeedSequence:
        if self._children is None:
            self._children = np.random.SeedSequence([*self.key, *self.position])
        return self._children
