"""Changes to valid files: of their bytes, and of what their format is made of, to get past the first check."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, Sequence[bytes]], bytes]
"""A new input from the valid ones, by the random numbers given."""

NUMBERS: tuple[int, ...] = (0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1)
WORDS = (b"", b"\0", b"\n", b"\r\n", b",", b"=", b"[", b"]]", b"{", b'"', b"'", b"\\", b".", b"nan", b"-inf", b"1e999")
UNICODE = (
    "",
    "é",
    "\u202e",
    "\ud7ff",
    "𝔘",
    "\x1b[2J",
    "\N{ZERO WIDTH JOINER}" * 3,
    "a" * 300,
    "[/red]",
    "%s%n",
    "../../x",
)


def change_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes: a bit, a byte, a word, a piece cut, doubled, moved, or taken from another input."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 2, 4, 16, 256)))
        kind = rng.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.choice((0, 1, 9, 10, 32, 34, 45, 46, 57, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            changed[at:at] = rng.choice(WORDS)
        elif kind == 3:
            del changed[at:end]
        elif kind == 4:
            changed[at:at] = changed[at:end] * rng.choice((1, 2, 50))
        elif kind == 5:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            changed[at:end] = other[begin : begin + rng.choice((1, 4, 16, 256))]
        elif kind == 6:
            changed[at:end] = str(whole(rng)).encode()
        else:
            del changed[at:]
    return bytes(changed)


def whole(rng: random.Random) -> int:
    """A whole number that a size should not be, or might just be."""
    number = rng.choice((*NUMBERS, rng.randrange(100), 10 ** rng.choice((6, 9, 12, 18, 40, 309, 400))))
    return number * rng.choice((1, 1, -1)) + rng.choice((0, 0, 1, -1))


def real(rng: random.Random) -> float:
    """A number, or what passes for one."""
    odd = (0.0, -0.0, 1.0, 0.5, 1.0 - 2**-53, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), 5e-324)
    return rng.choice((*odd, rng.uniform(-2.0, 2.0)))


def leaf(rng: random.Random) -> Any:
    """A JSON or TOML value without parts."""
    return rng.choice((whole(rng), real(rng), rng.choice(UNICODE), rng.choice((True, False)), [], {}))


def value(rng: random.Random, depth: int = 3) -> Any:
    """A value that may have parts."""
    if depth == 0 or rng.random() < 0.6:
        return leaf(rng)
    if rng.random() < 0.1:
        nested: Any = leaf(rng)
        for _ in range(rng.choice((10, 100, 1000))):
            nested = [nested]
        return nested
    parts = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return parts if rng.random() < 0.5 else {f"{rng.choice(UNICODE)}{index}": part for index, part in enumerate(parts)}


def change_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of JSON values with one or two of them changed, left out, doubled, renamed or exchanged."""
    root = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 2))):
        places = _places(root)
        parent, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            parent[key] = value(rng)
        elif kind == 1 and parent is not root:
            del parent[key]
        elif kind == 2 and isinstance(parent, dict):
            parent[rng.choice((*UNICODE, "name", "status", "kind"))] = parent.pop(key)
        elif kind == 3 and isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
        elif kind == 4:
            other, there = rng.choice(places)
            parent[key] = copy.deepcopy(other[there])
        else:
            parent[key] = leaf(rng)
    return root[0]


def _places(tree: Any) -> list[tuple[Any, Any]]:
    places, open_ends = [], [tree]
    while open_ends:
        node = open_ends.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                open_ends.append(node[key])
    return places
