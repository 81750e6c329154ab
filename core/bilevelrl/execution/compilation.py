"""Compiled functions. The first one imports numba, so import their modules inside the functions that call them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload


@overload
def compiled(function: Callable[..., Any], /) -> Any: ...
@overload
def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def compiled(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """`function`, compiled by numba at its first call; it releases the interpreter's lock.

    The machine code is cached for later processes: beside the source, or in the user's cache if the package's directory
    cannot be written, or in `NUMBA_CACHE_DIR`. If none of them can be written, each process compiles again.

    Args:
        function: what to compile; without it, the decorator with these options.
        options: more options of `numba.njit`.
    """
    if function is None:
        return functools.partial(compiled, **options)
    import numba

    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # numba found no directory for its cache
        return numba.njit(nogil=True, **options)(function)
