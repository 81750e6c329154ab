"""Figures that several problems report."""

from __future__ import annotations

import numpy as np

import bilevelrl as bl


def correlation(first: bl.Array, second: bl.Array) -> float:
    """Pearson's correlation; zero if either is constant."""
    spread = float(np.std(first) * np.std(second))
    covariance = float(np.mean((first - first.mean()) * (second - second.mean())))
    return covariance / spread if spread > 0 else 0.0
