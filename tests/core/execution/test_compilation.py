"""Compiled kernels are kept for the next process, wherever the package is installed; told by numba's own counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bilevelrl as bl

COUNT = """
import json, sys
from numba.core.dispatcher import Dispatcher

modules = [module for name, module in sys.modules.items() if name.startswith("bilevelrl")]
kernels = {kernel for module in modules for kernel in vars(module).values() if isinstance(kernel, Dispatcher)}
stats = {kernel.__name__: kernel.stats for kernel in kernels if kernel.signatures}
print(json.dumps({
    "called": sorted(stats),
    "compiled": sorted(name for name, kept in stats.items() if kept.cache_misses),
    "found": sorted(name for name, kept in stats.items() if kept.cache_hits),
    "places": sorted({kept.cache_path for kept in stats.values() if kept.cache_path}),
}))
"""

# What draws, learns and estimates from samples, and what backs up and solves a large sparse follower.
EVERYTHING = """
import numpy as np, scipy.sparse
import pytest

import bilevelrl as bl
problem = bl.problem("gridworld-preferences", size=3, horizon=2)
bl.algorithm("stoc-sobirl", batch=2, samples=64).run(problem, iterations=1)
count = 30_000
ring = scipy.sparse.csr_array((np.ones(count), ((1 + np.arange(count)) % count), np.arange(count + 1)))
follower = bl.SoftMDP(ring, np.zeros((count, 1)), 0.9, 1.0)
_, system = bl.mdp.linearized_backup(follower, np.zeros(count), method="iterative")
system.solve(np.ones(count))
"""
KERNELS = {"rollout", "signed_visits", "fill_alias_table", "discounted_sums", "discounted_visits", "learn"}
KERNELS |= {"soft_backup_rows", "sweep_forward", "sweep_backward"}

ONE_KERNEL = """
import numpy as np
from bilevelrl.sampling.kernels import discounted_sums
sums, path = np.zeros(1), np.zeros((1, 2), dtype=np.int64)
discounted_sums(np.ones((1, 1)), path, path, 0.5, sums)
assert sums[0] == 1.5
"""


def run(program: str, **environment: str) -> dict[str, Any]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "XDG_"))}
    answer = subprocess.run(
        [sys.executable, "-c", program + COUNT],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    counts: dict[str, Any] = json.loads(answer.stdout)
    return counts


def installed_read_only(directory: Path) -> dict[str, str]:
    """A copy of the package where nothing can be written beside the source, first on the path.

    A file stands in the place of `__pycache__`: permissions would not stop the superuser, which tests may run as.
    """
    package = directory / "site" / "bilevelrl"
    shutil.copytree(Path(bl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "testing", "cli"))
    for folder in (package, *(path for path in package.iterdir() if path.is_dir())):
        (folder / "__pycache__").write_text("")
    return {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path):
    first, second = (run(EVERYTHING, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert set(first["compiled"]) >= KERNELS
    assert second["compiled"] == []
    assert set(second["found"]) >= KERNELS


def test_nor_does_it_where_the_package_cannot_be_written_to(tmp_path):
    """What was compiled is then kept in the user's own cache."""
    environment = installed_read_only(tmp_path) | {
        "HOME": str(tmp_path / "home"),
        "LOCALAPPDATA": str(tmp_path / "home"),
    }
    first, second = (run(ONE_KERNEL, **environment) for _ in range(2))
    assert first["compiled"] == ["discounted_sums"]
    assert (second["compiled"], second["found"]) == ([], ["discounted_sums"])
    assert all(str(tmp_path / "home") in place for place in second["places"])


def test_where_nothing_can_be_written_each_process_compiles_anew(tmp_path):
    """A read-only container without a home: numba would refuse to compile a function that it is told to keep."""
    (tmp_path / "home").write_text("")
    environment = installed_read_only(tmp_path) | {
        "HOME": str(tmp_path / "home"),
        "LOCALAPPDATA": str(tmp_path / "home"),
    }
    counts = run(ONE_KERNEL, **environment)
    assert counts["called"] == ["discounted_sums"]
    assert counts["places"] == []
