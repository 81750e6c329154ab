"""The environment of a run besides its experiment: versions, plugins, the machine."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from bilevelrl.outer_loop import OuterLoop
from bilevelrl.plugins.components import Kind
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.storage.experiment import ROLES

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_CORETYPE")
"""Environment variables that change how sums are divided, and so their last bits."""


def environment_of(problem: BilevelProblem, algorithm: OuterLoop, seed: int) -> dict[str, Any]:
    """Versions, plugins, seed and machine, in JSON's own types, without paths or names of a person or a host."""
    return {
        "versions": versions_of(problem, algorithm),
        "plugins": {plugin.name: plugin.distribution for plugin in registry().plugins},
        "seed": seed,
        **host_facts(),
    }


def versions_of(problem: BilevelProblem, algorithm: OuterLoop) -> dict[str, str]:
    """What the results of a run depend on, by name: libraries, the plugin of each component, the processor."""
    made = {
        "bilevelrl": _version("bilevelrl"),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": _version("numba"),
        "BLAS": _blas(),
        "processor": _processor(),
    }
    for role in ROLES:
        component = getattr(algorithm, role)
        for entry in registry():
            if entry.component is type(component):
                made[f"{role} {entry.name!r} from"] = entry.distribution
    for entry in registry().of_kind(Kind.PROBLEM):
        if entry.name == problem.name and problem.configuration is not None:
            made[f"problem {entry.name!r} from"] = entry.distribution
    return made


def host_facts() -> dict[str, Any]:
    """The time and the machine."""
    return {
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory_gib": _memory(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


_version = functools.cache(importlib.metadata.version)
"""The version of a library, cached since reading it takes two milliseconds."""


def _blas() -> str:
    """The library behind NumPy's matrix products, such as `scipy-openblas 0.3.30`."""
    with contextlib.suppress(Exception):  # NumPy does not guarantee its form
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{found['name']} {found['version']}"
    return "unknown"


@functools.cache
def _processor() -> str:
    """The processor's model, which determines the kernels of matrix products."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return None
