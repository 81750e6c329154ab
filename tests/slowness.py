"""Which cases of a parametrised test `make test` leaves to `make test-all`, by the marker `slow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_unless(quick: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, all of them slow except those that are quick."""
    return [case if quick(case) else pytest.param(case, marks=pytest.mark.slow) for case in cases]
