"""Maps over tasks: in this process, in other processes, or on a cluster, with the same results.

The tasks of `parallel_map` do not depend on the workers. Each has a random stream of its own, results are in the order
of the tasks, and BLAS uses one thread inside a task, in every process. So the results are the same to the last bit for
any number and kind of workers, and without workers.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bilevelrl.execution.task_scope import in_worker, one_blas_thread
from bilevelrl.validation.errors import InputError, kind_words

if TYPE_CHECKING:
    from bilevelrl.execution.backends import Jobs as Jobs, Workers


Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

_IN_FORCE: contextvars.ContextVar[Workers | None] = contextvars.ContextVar("bilevelrl_workers", default=None)


def parallel_map(
    function: Callable[[Any, Task], Result],
    shared: Any,
    tasks: Iterable[Task],
    *,
    progress: Progress | None = None,
) -> list[Result]:
    """`[function(shared, task) for task in tasks]`, by the current workers (see `use_jobs`), or in this process.

    Args:
        function: a function of the shared data and a task, preferably one that can be imported. It must not change
            them, and must draw random numbers only from streams in its task, such as those of `rng.spawn(len(tasks))`.
        shared: the data that all tasks need, such as the problem. It is sent to each worker once. The items of a tuple
            are sent separately: an item that is the same object in the next map is not sent again.
        tasks: the data that differs between tasks; small, since each is sent to a worker. The division into tasks must
            not depend on the workers.
        progress: called with the number of finished tasks and the number of all tasks, each time a task finishes.

    Returns:
        The results, in the order of the tasks, bit for bit the same for all workers.

    Raises:
        InputError: if the function or the tasks are not of these types, or if something cannot be pickled for another
            process.
        WorkerLost: if a task cannot be completed because its workers die.
        Exception: the exception of a task; of several, that of the first task.
    """
    if not callable(function):
        raise InputError("function", kind_words(function), "a function of what is shared and a task")
    if not isinstance(tasks, Iterable):
        raise InputError("tasks", kind_words(tasks), "a list of tasks, or another iterable")
    listed = list(tasks)
    results: dict[int, Result] = {}
    # Entered once for all tasks: a task may be shorter than reading the number of BLAS threads.
    with one_blas_thread() if done_here(listed) else contextlib.nullcontext():
        for index, result in completed(function, shared, listed):
            results[index] = result
            if progress is not None:
                progress(len(results), len(listed))
    return [results[index] for index in range(len(listed))]


def completed(
    function: Callable[[Any, Task], Result], shared: Any, tasks: Sequence[Task], *, patient: bool = False
) -> Iterator[tuple[int, Result]]:
    """Index and result of each task as they arrive. Patient: all tasks finish before an error is raised."""
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
    """Whether tasks run in this process: a single task does too, so that it may use the workers itself."""
    return _IN_FORCE.get() is None or len(tasks) < 2 or in_worker()


@contextlib.contextmanager
def use_jobs(jobs: Jobs | None) -> Iterator[None]:
    """A block whose `parallel_map`s use these workers; inside a task there are no workers.

    Args:
        jobs: the number of processes on this machine, started at their first use; 1 for this process alone. Or a joblib
            backend, or its name: "dask" for the cluster of the current Dask client, "ray" for that of Ray. None: the
            current workers, if any.

    Raises:
        InputError: if `jobs` is anything else, or a backend that cannot be used here.
    """
    if jobs is not None:
        from bilevelrl.execution.backends import Workers, check_jobs

        check_jobs(jobs)
    if in_worker() or jobs is None:
        workers = _IN_FORCE.get()
        if workers is not None:
            workers.shared.forget()
        yield
        return
    own = None if jobs == 1 else Workers(jobs)
    token = _IN_FORCE.set(own)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)
        if own is not None:
            own.close()
