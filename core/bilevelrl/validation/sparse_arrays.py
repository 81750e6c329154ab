"""Checks of sparse arrays from users, before compiled loops use their indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from bilevelrl.validation.errors import InputError, shape_words


def as_csr(field: str, value: Any) -> Any:
    """A scipy sparse array or matrix of real numbers as a float64 CSR array, which may share its memory.

    Neither scipy's loops nor the loops here check bounds: an index beyond the array, from damage or a mistake, would
    read other memory.

    Raises:
        InputError: if entries are not real numbers, or indices or pointers do not fit the shape.
    """
    if value.dtype.kind not in "biuf":
        raise InputError(field, f"a sparse array of {value.dtype}", "real numbers")
    if len(value.shape) != 2:
        raise InputError(f"the shape of {field}", shape_words(value.shape), "two lengths")
    try:
        if value.format in ("csr", "csc", "bsr"):
            _check_compressed(value)
        elif value.format == "coo":
            _check_places(value.row, value.data.size, value.shape[0])
            _check_places(value.col, value.data.size, value.shape[1])
        return scipy.sparse.csr_array(value, dtype=np.float64)
    except (ValueError, IndexError, TypeError) as error:
        expected = "indices within its shape, pointers that begin at 0, never fall, and end within the entries"
        raise InputError(field, f"a sparse array that is not one ({error})", expected) from None


def _check_compressed(value: Any) -> None:
    """Check pointers and indices; scipy's own `check_format` stops if the last pointer is zero."""
    lines, length = value.shape[::-1] if value.format == "csc" else value.shape
    if value.format == "bsr":
        lines, length = lines // value.blocksize[0], length // value.blocksize[1]
    pointers, stored = value.indptr, len(value.data)
    if pointers.dtype.kind not in "iu" or pointers.shape != (lines + 1,):
        raise ValueError(f"pointers of type {pointers.dtype} and shape {pointers.shape} for {lines} lines")
    if pointers[0] != 0 or (np.diff(pointers.astype(np.int64)) < 0).any() or pointers[-1] > stored:
        raise ValueError(f"its pointers do not ascend from 0 to at most {stored}")
    _check_places(value.indices, stored, length)


def _check_places(places: Any, stored: int, length: int) -> None:
    if places.dtype.kind not in "iu" or places.shape != (stored,):
        raise ValueError(f"indices of type {places.dtype} and shape {places.shape} for {stored} entries")
    if places.size and not (places.min() >= 0 and places.max() < length):
        raise ValueError(f"an index is not from 0 to {length - 1}")
