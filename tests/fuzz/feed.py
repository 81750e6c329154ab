"""Decisions read off bytes: so that a fuzzer of bytes, and a file of them, can say what an MDP is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Feed:
    """Takes its bytes one after another; zeros where they have run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        """A number from 0 on, below 256 at most."""
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % below

    def choice(self, options: Sequence[T]) -> T:
        """One of at most 256 options."""
        return options[self.number(len(options))]
