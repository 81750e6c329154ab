"""One map over tasks: joblib runs them, and this module repeats tasks whose worker died."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from bilevelrl.execution.backends import Workers
from bilevelrl.execution.pickling import dumps, loads
from bilevelrl.execution.remote_tasks import Answer, Call, do
from bilevelrl.validation.errors import WorkerLost, value_words

MOST_ATTEMPTS = 3
"""How often a task is tried whose worker dies: twice beside other tasks, then alone, to find which task is at fault."""


class Dispatch:
    """One map over tasks.

    Args:
        workers: the workers.
        function: `(shared, task) ↦ result`.
        shared: the data that all tasks share; the items of a tuple are sent separately.
        tasks: the tasks.
        patient: whether all tasks are done before an error is raised. Such tasks take long, so each is sent by itself.
    """

    def __init__(
        self,
        workers: Workers,
        function: Callable[[Any, Any], Any],
        shared: Any,
        tasks: Sequence[Any],
        *,
        patient: bool = False,
    ) -> None:
        self._workers, self._function, self._shared, self._tasks = workers, function, shared, tasks
        self._patient = patient
        self._waiting = dict.fromkeys(range(len(tasks)))
        self._attempts: Counter[int] = Counter()
        self._lost_without_a_task = 0
        self._failures: dict[int, BaseException] = {}
        self._end = len(tasks)  # tasks from this index on are not needed
        self._interrupt: KeyboardInterrupt | None = None

    def results(self) -> Iterator[tuple[int, Any]]:
        """Index and result of each task, in the order in which they arrive.

        If tasks raise, the tasks before them are completed, and the first of the errors is raised, as in a sequential
        loop. On Ctrl-C, processes of this machine end the running tasks, their results are yielded, and
        `KeyboardInterrupt` is raised.
        """
        alone = not isinstance(self._shared, tuple)
        headers, arrays = self._workers.shared.prepare([self._shared] if alone else self._shared)
        call = Call(headers, alone, np.geterr(), os.getpid(), dumps(self._function, "the function"))
        bodies = [dumps(task, f"task {index}") for index, task in enumerate(self._tasks)]
        with self._interrupts_deferred():
            while self._todo():
                yield from self._round(call, bodies, arrays)
        if self._interrupt is not None:
            raise self._interrupt
        if self._failures:
            raise self._failures[min(self._failures)]

    def _todo(self) -> list[int]:
        """The tasks of the next round: one suspected task alone, else all that are still needed."""
        wanted = [index for index in self._waiting if self._is_wanted(index)]
        suspect = next((index for index in wanted if self._attempts[index] == MOST_ATTEMPTS - 1), None)
        return wanted if suspect is None else [suspect]

    def _is_wanted(self, index: int) -> bool:
        """Whether a task is still needed: after an error, only those before it, and after Ctrl-C none."""
        return self._interrupt is None and index < self._end

    def _round(self, call: Call, bodies: Sequence[bytes], arrays: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Results of tasks that are given to joblib together, until all needed ones have arrived or a worker dies."""
        with contextlib.closing(self._answers(self._todo(), call, bodies, arrays)) as answers:
            for answer in answers:
                del self._waiting[answer.index]
                yield from self._take(answer)
                if self._interrupt is None and not any(map(self._is_wanted, self._waiting)):
                    return

    def _answers(
        self, todo: Sequence[int], call: Call, bodies: Sequence[bytes], arrays: Sequence[Any]
    ) -> Generator[Answer, None, None]:
        import joblib

        begun: list[int] = []

        def calls() -> Iterator[Any]:
            for index in todo:
                if not self._is_wanted(index):
                    return
                begun.append(index)
                yield joblib.delayed(do)(call, index, bodies[index], *arrays)

        answers: Any = None
        ended = False
        try:
            self._workers.distribute(arrays)
            answers = self._workers.parallel(one_by_one=self._patient)(calls())
            for answer in answers:  # noqa: UP028 — `yield from` would close it before the warning is ignored
                yield answer
            ended = True
        except Exception as error:  # not an error of a task: those arrive as answers
            self._lose(begun, error)
        finally:
            if answers is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # joblib warns of the unneeded tasks that it ends
                    answers.close()
            if not ended:
                self._workers.renew()

    def _take(self, answer: Answer) -> Iterator[tuple[int, Any]]:
        for category, text in answer.warned:
            warnings.warn(text, category, stacklevel=2)
        if answer.story is None:
            yield answer.index, loads(answer.body)
        else:
            error = loads(answer.body)
            error.add_note(f"In a worker:\n{answer.story}")
            self._fail(answer.index, error)

    def _fail(self, index: int, error: BaseException) -> None:
        self._failures[index] = error
        if not self._patient:
            self._end = min(self._failures)

    def _lose(self, begun: Sequence[int], error: Exception) -> None:
        """Workers died: their tasks are repeated, and a task that killed three workers is named."""
        if self._interrupt is not None:  # the workers were killed, since they did not end in time
            return
        lost = [index for index in begun if index in self._waiting]
        self._lost_without_a_task += not lost
        # A worker of a cluster may die while it is sent the arrays, before any task has begun.
        if self._lost_without_a_task == MOST_ATTEMPTS or (self._workers.local and not begun):
            raise WorkerLost(f"no worker could be started, or stayed alive: {_one_line(error)}") from error
        self._attempts.update(lost)
        for index in lost:
            if self._attempts[index] == MOST_ATTEMPTS:
                self._give_up(index, error)

    def _give_up(self, index: int, error: Exception) -> None:
        function = getattr(self._function, "__qualname__", None) or type(self._function).__name__
        name = f"task {index} of {len(self._tasks)}, {function} of {value_words(self._tasks[index])}"
        complaint = f"its worker died {MOST_ATTEMPTS} times, the last time with no other task beside it"
        lost = WorkerLost(f"{name}: {complaint}; memory may have run out", index)
        lost.__cause__ = error
        self._fail(index, lost)
        del self._waiting[index]

    @contextlib.contextmanager
    def _interrupts_deferred(self) -> Iterator[None]:
        """A block in which the first Ctrl-C asks the processes to end; a second one, or any on a cluster, raises."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        over = threading.Event()

        def handle(number: int, frame: object) -> None:
            try:
                before[number](number, frame)
            except KeyboardInterrupt as interrupt:
                if self._interrupt is not None or not self._workers.local:
                    raise
                self._interrupt = interrupt
                self._workers.interrupt(over)

        before = {number: handler for number, handler in before.items() if callable(handler)}
        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            over.set()
            for number, handler in before.items():
                signal.signal(number, handler)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
