"""Compiled functions; numba is imported where the first of them is made, so import their module where one is called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload


@overload
def compiled(function: Callable[..., Any], /) -> Any: ...
@overload
def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def compiled(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """`function`, compiled by numba at its first call and run without the interpreter's lock.

    The machine code is kept for the next process: beside the source, or in the user's cache where the package's
    directory cannot be written, or in `NUMBA_CACHE_DIR`. Where none of them can be written, each process compiles anew.

    Args:
        function: what to compile; without it, the decorator with these options.
        options: more options of `numba.njit`.
    """
    if function is None:
        return functools.partial(compiled, **options)
    import numba

    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # numba found no directory to keep it in
        return numba.njit(nogil=True, **options)(function)
