"""`import bilevelrl` stays light, and says what it offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bilevelrl as bl

HEAVY = (
    "torch",
    "jax",
    "matplotlib",
    "gymnasium",
    "numba",
    "hypothesis",
    "pytest",
    "rich",
    "cattrs",
    "pandas",
    "tensorboard",
    "dask",
    "distributed",
    "cloudpickle",
    "threadpoolctl",
    "multiprocessing",
    "concurrent.futures.process",
)


def test_importing_bilevelrl_loads_no_heavy_library() -> None:
    """In a fresh interpreter, since this one has loaded half of them."""
    program = f"import sys, bilevelrl; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_loading_all_first_party_plugins_loads_none_either() -> None:
    """The registry imports the plugins; their heavy libraries wait for the call that needs them."""
    program = f"import sys, bilevelrl; bilevelrl.registry(); print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", bl.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(bl, name) is not None


def test_the_three_protocols_and_what_they_exchange_are_public() -> None:
    wanted = {
        "LowerLevelSolver",
        "HyperGradientEstimator",
        "UpperLevelOptimizer",
        "LowerLevelSolution",
        "HyperGradient",
    }
    assert wanted | {"OptimizerState", "Status", "Cost", "SoftMDP", "BilevelProblem", "Algorithm"} <= set(bl.__all__)
