"""Where work is done: here, in other processes, or on a cluster. It never enters what is computed.

`parallel_map` takes its tasks as they are, and they do not depend on the workers. Each carries a random stream of its
own, results come in the order of the tasks, and BLAS uses one thread inside a task, wherever that is done. So the
results are the same to the last bit for any number and kind of workers, and for none.
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
        jobs: how many processes of this machine, started at first need; 1 for this one alone. Or a joblib backend, or
            its name: "dask" for the cluster of the Dask client in use, "ray" for that of Ray. None: the workers in
            force, if any.

    Raises:
        InputError: for anything else, and for a backend that cannot be used here.
    """
    from bilevelrl.execution.backends import Workers, check_jobs

    if jobs is not None:
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
