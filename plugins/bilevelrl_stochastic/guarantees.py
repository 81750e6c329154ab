"""What estimators with continuations guarantee."""

from __future__ import annotations

import functools

import bilevelrl as bl


def truncation_tags(truncation: int | None) -> bl.Tags:
    """The guarantees of continuations of T steps (biased), or of a geometric length (None: unbiased)."""
    exactness = "unbiased" if truncation is None else "biased"
    return bl.Tags(exactness, deterministic=False, bias_bound=functools.partial(_bias_bound, truncation))


def _bias_bound(truncation: int | None, discount: float) -> float:
    """`γ^T` of an implicit part's largest size; zero for geometric lengths."""
    return 0.0 if truncation is None else discount**truncation
