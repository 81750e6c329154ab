"""What workers do in the tests: functions and classes that another process can import."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
from threadpoolctl import threadpool_info

import bilevelrl as bl
from bilevelrl.execution.task_scope import in_worker


class Counted:
    """Writes a line to a file, with the process, wherever it is unpickled. Its array is large enough for a file."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.numbers = np.arange(100_000.0)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def deliveries(self) -> list[int]:
        """The processes it has come to."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


def process_of(shared: Any, task: float) -> int:
    time.sleep(task)
    return os.getpid()


def first_of(shared: Any, task: int) -> Any:
    return shared[0]


def arithmetic(shared: bl.Array, task: int) -> Any:
    """Sums whose last bits depend on the order in which they are taken, and on BLAS."""
    drawn = np.random.default_rng(task).standard_normal((257, 300))
    product = drawn @ shared
    return product.sum(), np.linalg.solve(product, drawn[:, 0]), np.asfortranarray(product).sum(axis=1)


def blas_threads(shared: Any, task: int) -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def floating_point_errors(shared: Any, task: int) -> Any:
    return np.geterr()


def nested(shared: Any, task: int) -> tuple[int, bool, list[int]]:
    with bl.use_jobs(2):
        return os.getpid(), in_worker(), bl.execution.parallel_map(process_of, None, [0.0, 0.0])


def fails(shared: Any, task: int) -> int:
    """The second task fails late, the third at once: one after another, the second's error would be the first."""
    if task == 1:
        time.sleep(0.2)
        raise bl.InputError("the second task", "late", "an error all the same")
    if task == 2:
        raise ZeroDivisionError("the third task")
    return task


class AwkwardError(Exception):
    """Can be pickled and not read back, as many an exception."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fails_awkwardly(shared: Any, task: int) -> None:
    raise AwkwardError(1, task)


def warns(shared: Any, task: int) -> int:
    warnings.warn("something is odd", bl.storage.CheckpointWarning, stacklevel=1)
    return task


def dies_once(marker: Path, task: int) -> int:
    """The third task kills its process, the first time."""
    time.sleep(0.02)
    if task == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task * task


def always_dies(shared: float | None, task: int) -> int:
    """The second task kills its process, every time; the others take as many seconds as are shared."""
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(shared or 0.0)
    return task


def layout(shared: Any, task: int) -> dict[str, Any]:
    """How arrays lie in memory where a worker finds them: bytes, order of axes, whether they may be written to."""
    return {
        name: (array.tobytes(), np.argsort(array.strides, stable=True).tolist(), array.flags.writeable)
        for name, array in shared.items()
    }


def scribbles(shared: Any, task: int) -> tuple[float, bool, str]:
    """Writes to a shared array; what was there, whether two views are one memory, and the file behind them."""
    first, second = shared["first"], shared["second"]
    before = float(first[0])
    first[0] = 7.0
    base: Any = first
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base.obj if isinstance(base.base, memoryview) else base.base
    return before, bool(np.shares_memory(first, second)), type(base).__name__


@attrs.frozen
class DiesOnce:
    """Gradient descent whose process is killed at the tenth step, the first time."""

    name: ClassVar[str] = "dies-once"
    marker: str = ""
    seconds: float = 0.0

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Any:
        time.sleep(self.seconds)
        if state.steps == 10 and self.marker and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x - 0.05 * hyper.gradient, bl.OptimizerState(state.steps + 1)


@attrs.frozen
class Fussy:
    """Gradient descent that does not like runs that begin above zero."""

    name: ClassVar[str] = "fussy"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Any:
        if x[0] > 0 and state.steps == 3:
            raise ZeroDivisionError("above zero")
        return x - 0.001 * hyper.gradient, bl.OptimizerState(state.steps + 1)


@attrs.frozen
class DiesAgain:
    """Gradient descent that kills its worker, each time, in runs that begin above zero."""

    name: ClassVar[str] = "dies-again"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Any:
        if x[0] > 0 and state.steps == 3 and in_worker():
            os.kill(os.getpid(), signal.SIGKILL)
        return x - 0.001 * hyper.gradient, bl.OptimizerState(state.steps + 1)


@attrs.frozen(eq=False, slots=False)
class OwnSolution(bl.mdp.TabularSolution):
    """An answer of a class of its own."""


@attrs.frozen
class OwnSolver:
    """Soft value iteration with an answer of a class of its own."""

    name: ClassVar[str] = "own"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    restore = staticmethod(OwnSolution.restored)

    def solve(self, problem: Any, x: Any, warm_start: Any, rng: Any) -> OwnSolution:
        solver: Any = bl.lower_level_solver("soft-value-iteration", sweeps=5)
        return OwnSolution(**vars(solver.solve(problem, x, warm_start, rng)))


class Lock:
    """Nothing that another process can be sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
