"""What a user waits for before anything happens: each line in a process of its own, against importing NumPy and SciPy.

Run with `make bench`. The processes are started in turn, so that the noise of the machine falls on all of them alike,
and the ratios of the medians are printed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROUNDS = 15
PYTHON, COMMAND = sys.executable, str(Path(sys.executable).with_name("bilevelrl"))
BASE = "import numpy, scipy.sparse"
LINES = {
    "python alone": ([PYTHON, "-c", "pass"], None),
    BASE: ([PYTHON, "-c", BASE], None),
    "import bilevelrl": ([PYTHON, "-c", "import bilevelrl"], 1.5),
    "from bilevelrl import *": ([PYTHON, "-c", "from bilevelrl import *"], 1.5),
    "bilevelrl --help": ([COMMAND, "--help"], 2.0),
    "bilevelrl run --help": ([COMMAND, "run", "--help"], 2.0),
    "bilevelrl list": ([COMMAND, "list"], None),
}
"""What is run, and the largest ratio that we want."""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


@pytest.mark.benchmark(group="start-up")
def test_start_up_against_importing_numpy_and_scipy(benchmark) -> None:
    times: dict[str, list[float]] = {label: [] for label in LINES}
    for command, _ in LINES.values():
        seconds(command)  # the files are read into memory, and compiled to bytecode
    for _ in range(ROUNDS):
        for label, (command, _) in LINES.items():
            times[label].append(seconds(command))
    medians = {label: float(np.median(values)) for label, values in times.items()}
    print(f"\n{'start-up':>28} {'ms':>8} {'ratio':>7} {'wanted':>7}")
    for label, (_, wanted) in LINES.items():
        ratio = medians[label] / medians[BASE]
        print(f"{label:>28} {1e3 * medians[label]:>8.1f} {ratio:>7.2f} {f'{wanted:g}' if wanted else '':>7}")
        benchmark.extra_info[label] = {"ms": 1e3 * medians[label], "ratio": ratio}
    benchmark.pedantic(seconds, args=(LINES["import bilevelrl"][0],), rounds=3)
