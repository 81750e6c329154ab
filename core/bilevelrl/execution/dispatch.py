"""Tasks to workers and answers back, for any executor: what is shared goes to each worker once, what is lost is redone.

The workers of an executor cannot be told apart beforehand, nor asked what they hold. So a task goes out with the keys
of what it shares; a worker that holds it, or can read it from the parent's file, does the task; one that cannot, on
another machine, answers "missing", is sent the shared values once, and the task goes out again. Few tasks are under way
at first, lest all of them come back.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import attrs
import numpy as np

from bilevelrl.execution import payloads
from bilevelrl.execution.payloads import Part, Store
from bilevelrl.execution.worker_side import Answer, Call, Reference, Work, work, work_here
from bilevelrl.validation.errors import WorkerLost, value_words

MOST_ATTEMPTS = 3
"""How often a task is begun whose worker died: twice beside others, then alone, so that the guilty one is known."""

MOST_MISSES = 3
"""How often a task comes back for want of what it shares, before that travels with the task itself."""

_numbers = itertools.count()


class Workers(Protocol):
    """An executor, and what is to be done where its workers die."""

    @property
    def store(self) -> Store:
        """What the workers share."""

    @property
    def most(self) -> int | None:
        """So many tasks under way; None: as many as there seem to be workers for."""

    def executor(self) -> concurrent.futures.Executor:
        """The executor; one of our own is started where there is none."""

    def died(self) -> bool:
        """Told that the executor is broken: whether there is going to be another one."""

    def interrupt(self) -> float:
        """Ask the tasks under way to come to an end, and to save what they have; how many seconds they may take."""

    def abandon(self) -> None:
        """Leave the tasks under way to themselves."""


@attrs.frozen(eq=False)
class _Sent:
    """A call under way: a task, or (None) what is shared, for a worker that asked for it."""

    index: int | None
    asked_by: str = ""


class Dispatch:
    """One map over tasks.

    Args:
        workers: who does it.
        function: `(shared, task) ↦ result`.
        shared: what all tasks share; the items of a tuple travel separately.
        tasks: the tasks.
        patient: whether an error waits until all tasks are done.
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
        self._by_reference = isinstance(workers.executor(), concurrent.futures.ThreadPoolExecutor)
        self._patient = patient
        self._alone = not isinstance(shared, tuple)
        self._errors = np.geterr()
        self._pending = list(range(len(tasks)))
        self._running: dict[concurrent.futures.Future[Any], _Sent] = {}
        self._window = workers.most or 2 * (os.cpu_count() or 1)
        self._parked: list[int] = []
        self._delivering: set[str] = set()
        self._misses: Counter[int] = Counter()
        self._attempts: Counter[int] = Counter()
        self._failures: dict[int, BaseException] = {}
        self._left = False  # whether a task is under way that nobody waits for

    def results(self) -> Iterator[tuple[int, Any]]:
        """Index and result of each task, in the order in which they come.

        Where tasks raise, those before them are waited for, and the first of the errors is raised: as if all had been
        done one after the other. Ctrl-C asks the tasks under way to end, hands out their results, and goes on.
        """
        try:
            while self._pending or self._running:
                self._send()
                yield from self._receive(None)
            if self._failures:
                raise self._failures[min(self._failures)]
        except KeyboardInterrupt:
            self._pending.clear()
            yield from self._receive(self._workers.interrupt())
            raise
        finally:
            for future in self._running:
                future.cancel()
            if self._running or self._left:
                self._workers.abandon()

    def _send(self) -> None:
        """Send what may go out now: one alone that is under suspicion, else up to the window."""
        while self._pending:
            suspect = next((i for i in self._pending if self._attempts[i] == MOST_ATTEMPTS - 1), None)
            window = self._window if suspect is None else 1
            if len(self._running) >= window:
                return
            index = self._pending.pop(0) if suspect is None else self._pending.pop(self._pending.index(suspect))
            try:
                self._submit(index)
            except concurrent.futures.BrokenExecutor as error:
                if self._running:  # they will tell the same
                    self._pending.insert(0, index)
                    return
                self._broken([index], error)

    def _submit(self, index: int) -> None:
        executor, task = self._workers.executor(), self._tasks[index]
        if self._by_reference:
            future = executor.submit(work_here, self._function, self._shared, task, self._errors)
        else:
            body = payloads.dumps(Work(self._function, task), f"task {index}")
            future = executor.submit(work, self._call(body, included=self._misses[index] >= MOST_MISSES))
        self._running[future] = _Sent(index)

    def _deliver(self, worker: str) -> None:
        """Send what is shared without a task: with luck to the worker that lacks it, since that one is idle."""
        self._delivering.add(worker)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")  # it is large, and it goes out once
            future = self._workers.executor().submit(work, self._call(None, included=True))
        self._running[future] = _Sent(None, worker)

    def _call(self, body: bytes | None, *, included: bool) -> Call:
        store = self._workers.store
        parts = store.parts([self._shared] if self._alone else self._shared)
        references = [_reference(part, included) for part in parts]
        return Call(store.name, references, self._alone, store.keys, self._errors, body, next(_numbers))

    def _receive(self, timeout: float | None) -> Iterator[tuple[int, Any]]:
        """Take in what has come: the results of tasks, those that must go out again, and what else there is to know."""
        if not self._running:
            return
        when = concurrent.futures.FIRST_COMPLETED if timeout is None else concurrent.futures.ALL_COMPLETED
        done, _ = concurrent.futures.wait(self._running, timeout, when)
        lost: list[int] = []
        broken: BaseException | None = None
        for future in done:
            sent = self._running.pop(future, None)
            if sent is None:  # a failure before it has made it superfluous
                continue
            try:
                answer = future.result()
            except concurrent.futures.BrokenExecutor as error:
                broken = error
                lost += [] if sent.index is None else [sent.index]
            except Exception as error:
                self._take_error(sent, error)
            else:
                yield from self._take(sent, answer)
        if broken is not None:
            others = [sent.index for sent in self._running.values() if sent.index is not None]
            self._running.clear()
            self._broken(lost + others, broken)

    def _take(self, sent: _Sent, answer: Any) -> Iterator[tuple[int, Any]]:
        self._window += self._workers.most is None  # whoever answers can be given more
        for category, text in [] if self._by_reference else answer.warned:
            warnings.warn(text, category, stacklevel=2)
        if sent.index is None:
            self._delivering.discard(sent.asked_by)
            self._pending = sorted(self._pending + self._parked)
            self._parked.clear()
            self._drop_superfluous()
        elif self._by_reference:
            yield sent.index, answer
        elif answer.kind == "missing":
            self._miss(sent.index, answer)
        elif answer.kind == "failed":
            error = payloads.loads(answer.body)
            error.add_note(f"In a worker:\n{answer.story}")
            self._fail(sent.index, error)
        else:
            yield sent.index, payloads.loads(answer.body)

    def _miss(self, index: int, answer: Answer) -> None:
        self._window -= self._workers.most is None
        self._misses[index] += 1
        if self._misses[index] >= MOST_MISSES:  # the deliveries go elsewhere: now it travels with the task
            self._pending.insert(0, index)
        else:
            self._parked.append(index)
            if answer.worker not in self._delivering:
                self._deliver(answer.worker)

    def _take_error(self, sent: _Sent, error: Exception) -> None:
        """An error that is not an answer: a task's own where nothing is pickled, else the executor's."""
        if sent.index is None:
            raise WorkerLost(f"what the tasks share could not be sent to a worker: {_one_line(error)}") from error
        if self._by_reference:
            self._fail(sent.index, error)
        else:
            told = f"{self._name(sent.index)}: its executor failed with {_one_line(error)}"
            raise WorkerLost(told, sent.index) from error

    def _fail(self, index: int, error: BaseException) -> None:
        """Remember a task's error."""
        self._failures[index] = error
        self._drop_superfluous()

    def _drop_superfluous(self) -> None:
        """Forget the tasks behind one that failed, as if all were done one after the other."""
        if self._patient or not self._failures:
            return
        first = min(self._failures)
        self._pending = [i for i in self._pending if i < first]
        for future, sent in list(self._running.items()):
            if sent.index is not None and sent.index > first:
                self._left = not future.cancel() or self._left
                del self._running[future]

    def _broken(self, lost: list[int], error: BaseException) -> None:
        """A worker died, and with it a pool: whose tasks are done again, in another one."""
        for index in lost:
            self._attempts[index] += 1
        worn = [index for index in lost if self._attempts[index] >= MOST_ATTEMPTS]
        if not self._workers.died():
            name = self._name(lost[0]) if lost else "what the tasks share"
            told = "its executor is broken, since a worker died; jobs=N starts a pool that is renewed when one dies"
            raise WorkerLost(f"{name}: {told} ({_one_line(error)})", lost[0] if lost else None) from error
        for index in worn:
            told = f"its worker died {MOST_ATTEMPTS} times, the last time with no other task beside it"
            died = WorkerLost(f"{self._name(index)}: {told}; memory may have run out", index)
            if not self._patient:
                raise died from error
            died.__cause__ = error
            self._failures[index] = died
        self._pending = sorted({*self._pending, *lost, *self._parked} - set(worn))
        self._parked.clear()
        self._delivering.clear()

    def _name(self, index: int) -> str:
        function = getattr(self._function, "__qualname__", None) or type(self._function).__name__
        return f"task {index} of {len(self._tasks)}, {function} of {value_words(self._tasks[index])}"


def _reference(part: Part, included: bool) -> Reference:
    return Reference(part.key, part.path, part.bytes() if included or part.path is None else None)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
