"""Where work is done: here, in processes of our own, or in any executor. It never enters what is computed.

`parallel_map` cuts nothing up: its tasks are given, and do not depend on who does them. Each brings a random stream of
its own, results come in the order of the tasks, and BLAS has one thread inside a task, wherever that is done. So the
results of all executors, and of none, are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bilevelrl.execution.task_scope import in_worker, one_blas_thread
from bilevelrl.validation.errors import InputError, WorkerLost, kind_words
from bilevelrl.validation.fields import check_count

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from bilevelrl.execution.dispatch import Workers
    from bilevelrl.execution.payloads import Store

    Jobs = int | Executor
    """Who does the work: so many processes (1: this one), or an executor."""


Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

GRACE = 10.0
"""Seconds that tasks under way have to save what they have, after Ctrl-C."""

_IN_FORCE: contextvars.ContextVar[Workers | None] = contextvars.ContextVar("bilevelrl_workers", default=None)


def parallel_map(
    function: Callable[[Any, Task], Result],
    shared: Any,
    tasks: Iterable[Task],
    *,
    progress: Progress | None = None,
) -> list[Result]:
    """`[function(shared, task) for task in tasks]`, done by the workers in force (see `use_jobs`), or else here.

    Args:
        function: of what is shared and a task, at best of a module. It changes neither, and draws random numbers only
            from streams in its task, such as `rng.spawn(len(tasks))` gives.
        shared: what all tasks need, such as the problem. It is sent to each worker once; of a tuple each item is, so
            that one which stays the same from map to map, the very object, is not sent again.
        tasks: what differs from task to task; small, since each is sent to where it is done. How the work is cut into
            tasks must not depend on the workers.
        progress: called with the number of tasks done and of all, each time one is.

    Returns:
        The results, in the order of the tasks: bit for bit the same whoever did them.

    Raises:
        InputError: where the function is none, or the tasks are; where a worker is another process and something
            cannot be pickled.
        WorkerLost: where a task cannot be done because its workers die.
        Exception: what a task raises; of several that raise, the first.
    """
    if not callable(function):
        raise InputError("function", kind_words(function), "a function of what is shared and a task")
    if not isinstance(tasks, Iterable):
        raise InputError("tasks", kind_words(tasks), "a list of tasks, or another iterable")
    listed = list(tasks)
    results: dict[int, Result] = {}
    # A single entry for all tasks: a task may be shorter than asking BLAS for its threads.
    with one_blas_thread() if done_here(listed) else contextlib.nullcontext():
        for index, result in completed(function, shared, listed):
            results[index] = result
            if progress is not None:
                progress(len(results), len(listed))
    return [results[index] for index in range(len(listed))]


def completed(
    function: Callable[[Any, Task], Result], shared: Any, tasks: Sequence[Task], *, patient: bool = False
) -> Iterator[tuple[int, Result]]:
    """Index and result of each task as they come; see `parallel_map`. Patient: an error waits until all are done."""
    if not done_here(tasks):
        from bilevelrl.execution.dispatch import Dispatch

        workers = _IN_FORCE.get()
        assert workers is not None
        yield from Dispatch(workers, function, shared, tasks, patient=patient).results()
        return
    first: Exception | None = None
    for index, task in enumerate(tasks):
        try:
            with one_blas_thread():
                result = function(shared, task)
        except Exception as error:
            if not patient:
                raise
            first = first or error
        else:
            yield index, result
    if first is not None:
        raise first


def done_here(tasks: Sequence[Any]) -> bool:
    """Whether tasks are done here: one alone too, which may then use the workers itself."""
    return _IN_FORCE.get() is None or len(tasks) < 2 or in_worker()


@contextlib.contextmanager
def use_jobs(jobs: Jobs | None) -> Iterator[None]:
    """A block whose `parallel_map`s are done by these workers; inside a task there are none.

    Args:
        jobs: how many processes, started at first need and ended with the block; 1 for this one. Or any
            `concurrent.futures.Executor`, which stays its owner's: threads, a Dask cluster's `Client.get_executor()`.
            None: the workers in force, if any.

    Raises:
        InputError: for anything else.
    """
    if jobs is not None and not _is_executor(jobs):
        if isinstance(jobs, int):
            check_count("jobs", jobs)
        else:
            raise InputError("jobs", kind_words(jobs), "a number of processes, or a concurrent.futures.Executor")
    if in_worker() or jobs is None:
        workers = _IN_FORCE.get()
        if workers is not None:
            workers.store.renew()
        yield
        return
    own = None if jobs == 1 else _Pool(jobs) if isinstance(jobs, int) else _Borrowed(jobs)
    token = _IN_FORCE.set(own)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)
        if own is not None:
            own.close()


def _store() -> Store:
    from bilevelrl.execution.payloads import Store

    return Store()


def _is_executor(jobs: object) -> bool:
    from concurrent.futures import Executor

    return isinstance(jobs, Executor)


class _Borrowed:
    """Somebody's executor: used, and left as it is."""

    def __init__(self, executor: Executor) -> None:
        self.store = _store()
        self.most: int | None = None
        self._executor = executor

    def executor(self) -> Executor:
        """See `Workers`."""
        return self._executor

    def died(self) -> bool:
        """See `Workers`; it is not ours to renew."""
        return False

    def interrupt(self) -> float:
        """See `Workers`; its tasks cannot be reached."""
        return 0.0

    def abandon(self) -> None:
        """See `Workers`."""

    def close(self) -> None:
        """Remove the files."""
        self.store.close()


class _Pool:
    """Processes of our own, started by spawn, which is safe beside threads; a pool whose worker died is made anew."""

    def __init__(self, jobs: int) -> None:
        self.store = _store()
        self.most: int | None = 2 * jobs
        self._jobs = jobs
        self._executor: Any = None
        self._started: Any = None

    def executor(self) -> Executor:
        """See `Workers`."""
        if self._executor is None:
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            from bilevelrl.execution.worker_side import begin

            context = multiprocessing.get_context("spawn")
            self._started = context.Event()
            arguments = self._started, str(self.store.directory)
            self._executor = ProcessPoolExecutor(self._jobs, context, begin, arguments)
        made: Executor = self._executor
        return made

    def died(self) -> bool:
        """See `Workers`."""
        if not self._started.is_set():
            told = "no process could be started; in a script, `jobs` belongs under `if __name__ == '__main__':`, since "
            raise WorkerLost(told + "new processes import the script")
        self.abandon()
        return True

    def interrupt(self) -> float:
        """See `Workers`."""
        self._signal(signal.SIGINT)
        return GRACE

    def abandon(self) -> None:
        """See `Workers`; the processes are ended, and started anew at the next need."""
        if self._executor is not None:
            self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def close(self) -> None:
        """End the processes and remove the files."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self.store.close()

    def _signal(self, number: int) -> None:
        # Python 3.14 has `kill_workers` for this; before, the processes are known here only.
        for process in list((getattr(self._executor, "_processes", None) or {}).values()):
            with contextlib.suppress(OSError, ValueError):
                os.kill(process.pid, number)
