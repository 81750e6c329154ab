"""Random streams keyed by (seed, role, iteration): nothing to save, and any iteration can be replayed alone."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISpawnableSeedSequence

from bilevelrl.validation import InputError


def stream(seed: int, role: str, iteration: int = 0, substream: int = 0) -> np.random.Generator:
    """The generator of (seed, role, iteration, substream), always the same one.

    A counter-based Philox generator: the key is a hash of seed and role, and the counter starts at (iteration,
    substream), so two streams of one key cannot overlap in fewer than 2^128 draws.

    Args:
        seed: the run's seed, an integer of at least 0.
        role: who draws, e.g. "lower" or "estimator".
        iteration: the outer iteration.
        substream: a worker or environment index, where one role draws in several places.
    """
    if seed < 0:
        raise InputError("seed", repr(seed), "an integer of at least 0")
    key = _philox_key(seed, role)
    seed_sequence: Any = _StreamSeed(key, iteration, substream)
    philox = np.random.Philox(seed_sequence)
    state: Any = {
        "bit_generator": "Philox",
        "state": {"counter": (0, 0, iteration, substream), "key": key},
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
    """Seeds Philox with a key known beforehand, and makes `rng.spawn` reproducible.

    `Philox(key=…)` would draw unused entropy from the operating system, which takes longer than all the rest, and
    would spawn children from it, different in every run.
    """

    def __init__(self, key: tuple[int, int], iteration: int, substream: int) -> None:
        self.key = key
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
