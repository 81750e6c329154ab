"""The workers: joblib's processes on this machine, or another joblib backend such as a Dask or a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from bilevelrl.execution.remote_tasks import begin
from bilevelrl.execution.shared_values import SharedValues
from bilevelrl.validation.errors import InputError, kind_words, value_words
from bilevelrl.validation.fields import check_count

if TYPE_CHECKING:
    from joblib.parallel import ParallelBackendBase

    Jobs: TypeAlias = int | str | ParallelBackendBase
    """The workers: a number of processes on this machine (1: this process), or a joblib backend or its name."""

GRACE = 10.0
"""Seconds that running tasks have to save their state, after Ctrl-C."""

REMINDER = 0.2
"""Seconds between two requests to the running tasks, since a task may have begun after the first request."""


class Workers:
    """The workers of one `use_jobs` block, started at their first use.

    Processes are kept for the next block, as joblib does: they end after five idle minutes, or with this process.

    Args:
        jobs: how many processes, or a joblib backend or its name.

    Raises:
        InputError: if joblib has no such backend, or cannot use it here.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.local = isinstance(jobs, int)
        self.shared = SharedValues(mapped=self.local)
        self._backend: Any = None if self.local else _backend(jobs)
        self._jobs = jobs
        self._cluster: Any = None
        self._sent: dict[int, tuple[Any, Any]] = {}

    def parallel(self, *, one_by_one: bool) -> Any:
        """A `joblib.Parallel` that yields results as they arrive.

        Args:
            one_by_one: whether tasks are sent one at a time, when a worker is idle. Otherwise joblib sends short tasks
                together, and some in advance.
        """
        import joblib

        options = {"batch_size": 1, "pre_dispatch": "n_jobs"} if one_by_one else {}
        if self.local:
            first: dict[str, Any] = {"initializer": begin, "initargs": (os.getpid(),)}
            with joblib.parallel_config("loky", n_jobs=self._jobs, inner_max_num_threads=1, **first):
                return joblib.Parallel(return_as="generator_unordered", **options)
        if self._cluster is None:  # entered once, since Ray starts its workers on entry
            self._cluster = joblib.Parallel(-1, self._backend, "generator_unordered").__enter__()
        self._cluster.batch_size = options.get("batch_size", "auto")
        self._cluster.pre_dispatch = options.get("pre_dispatch", "2 * n_jobs")
        getattr(self._backend, "reset_batch_stats", lambda: None)()
        return self._cluster

    def distribute(self, arrays: Sequence[Any]) -> None:
        """Send new arrays to a Dask cluster once; joblib alone would send them with each map."""
        if hasattr(self._backend, "data_futures"):
            # The arrays are kept too, so that no new array gets the identity of one of them.
            scatter = self._backend.client.scatter
            self._sent = {
                id(array): self._sent.get(id(array)) or (array, scatter(array, hash=False)) for array in arrays
            }
            self._backend.data_futures = {key: future for key, (_, future) in self._sent.items()}

    def renew(self) -> None:
        """Reconnect to the cluster: a worker died with its data, or joblib still has tasks of an earlier map."""
        self._sent.clear()
        if self._cluster is not None:
            self._cluster.__exit__(None, None, None)
            self._cluster = None

    def interrupt(self, over: threading.Event) -> None:
        """Ask the running tasks to save their state and end, until they have ended; kill them after the time limit."""

        def ask() -> None:
            deadline = time.monotonic() + GRACE
            while time.monotonic() < deadline:
                _signal_all(signal.SIGINT)
                if over.wait(REMINDER):
                    return
            _signal_all(getattr(signal, "SIGKILL", signal.SIGTERM))

        threading.Thread(target=ask, daemon=True).start()

    def close(self) -> None:
        """Drop the shared values, and disconnect from the cluster."""
        self.shared.close()
        self.renew()


def check_jobs(jobs: object) -> None:
    """Raise `InputError` for an invalid value of `jobs`."""
    if isinstance(jobs, int):
        check_count("jobs", jobs)
        return
    from joblib.parallel import ParallelBackendBase

    if not isinstance(jobs, str | ParallelBackendBase):
        raise InputError("jobs", kind_words(jobs), "a number of processes, or a joblib backend or its name")


def _backend(jobs: Any) -> Any:
    import joblib
    from joblib.parallel import get_active_backend

    try:
        if jobs == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        with joblib.parallel_config(backend=jobs):
            backend, _ = get_active_backend()
    except (ValueError, ImportError) as error:
        expected = f"a joblib backend that can be used here ({' '.join(str(error).split())})"
        raise InputError("jobs", value_words(jobs), expected) from None
    if not backend.supports_return_generator:
        backend.supports_return_generator = True  # Ray's inherits False from a backend whose pool cannot be ended early
    if hasattr(backend, "data_futures") and "submit" not in vars(backend):
        _repair_dask(backend)
    return backend


def _repair_dask(backend: Any) -> None:
    """Make joblib's Dask backend report a task that Dask abandons, and never run tasks in this process.

    Without the first change joblib waits for such a task forever. Without the second, a task that kills its worker
    kills this process, once a single worker is left.
    """
    submit, effective_n_jobs = backend.submit, backend.effective_n_jobs

    def submit_and_call_back(function: Any, callback: Any = None) -> Any:
        future = submit(function, callback)
        future.add_done_callback(lambda done: done.exception() and callback(done.exception()))
        return future

    backend.submit = submit_and_call_back
    backend.effective_n_jobs = lambda n_jobs: max(2, effective_n_jobs(n_jobs))


def _signal_all(number: int) -> None:
    import contextlib
    import multiprocessing

    from joblib.externals.loky.backend.process import LokyProcess

    for process in multiprocessing.active_children():
        if isinstance(process, LokyProcess) and process.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(process.pid, number)
