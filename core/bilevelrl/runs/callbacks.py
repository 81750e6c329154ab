"""Callbacks, which observe a run, and the handling of those that fail."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bilevelrl.outer_loop import OuterLoop, OuterState
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.storage.environment import environment_of
from bilevelrl.storage.experiment import Experiment
from bilevelrl.storage.history import History
from bilevelrl.validation.errors import InputError, kind_words, value_words
from bilevelrl.validation.notices import Notice

if TYPE_CHECKING:
    from bilevelrl.runs.run import Run


EXPECTED = "a Callback, a function of the state, or several of them"


class StopRun(Exception):
    """Raised by a callback to stop its run: the run ends with `Status.STOPPED`, and is returned and saved as usual.

    The message, such as `raise StopRun("the objective has settled")`, becomes `Run.stopped_by`.
    """


class CallbackWarning(Notice):
    """A callback failed and was removed; the run continued."""


@attrs.frozen(eq=False)
class RunFacts:
    """The facts that a callback receives before the first state.

    Args:
        problem: the problem.
        algorithm: the algorithm.
        settings: iterations, seed and tolerance.
        iteration: the iteration of the first state that will be shown: 0 in a new run, more in a resumed one.
        history: one row for each iteration, including those before that state; it grows during the run.
        directory: the directory to which the run is written; None if there is none.
    """

    problem: BilevelProblem
    algorithm: OuterLoop
    settings: Mapping[str, Any]
    iteration: int
    history: History
    directory: Path | None

    @property
    def experiment(self) -> Experiment:
        """The effective configuration: every component with all its options."""
        return Experiment.describe(self.problem, self.algorithm, **self.settings)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, plugins, seed and machine, as in `environment.json`."""
        return environment_of(self.problem, self.algorithm, self.settings["seed"])


class Callback:
    """Observes runs: `begin`, then `see` for every state, then `end`. Each does nothing unless overridden.

    A resumed run calls `begin` again, and shows the state of its checkpoint again. A callback that raises an error is
    removed with a `CallbackWarning`, and the run continues. One that raises `StopRun` in `see` stops the run.
    """

    def begin(self, facts: RunFacts) -> None:
        """A run begins or is resumed; no state has been shown yet."""

    def see(self, state: OuterState, row: Mapping[str, float]) -> None:
        """One state, including the first, and its row of the history, by column."""

    def end(self, run: Run) -> None:
        """The run ended: as requested, by a failure, by Ctrl-C or by a component's error."""


class _Function(Callback):
    """A function of the state as a callback."""

    def __init__(self, function: Callable[[OuterState], object]) -> None:
        self.function = function

    def see(self, state: OuterState, row: Mapping[str, float]) -> None:
        self.function(state)


Watching = Callback | Callable[[OuterState], object]
Callbacks = Watching | Iterable[Watching] | None
"""The argument of `Algorithm.run`: one callback, one function of the state, several of either, or None."""


class Watchers:
    """The callbacks of one run; those that fail are removed.

    Raises:
        InputError: if an item is neither a callback nor a function.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self._watching = _listed(callbacks)
        self._errors = np.geterr()

    def begin(self, facts: RunFacts) -> None:
        """Call `begin` of all callbacks."""
        self._tell("as the run began", lambda callback: callback.begin(facts))

    def see(self, state: OuterState, history: History) -> None:
        """Show the newest state to all callbacks."""
        if self._watching:
            row = history.row(-1)
            self._tell(f"at iteration {state.iteration}", lambda callback: callback.see(state, row))

    def end(self, run: Run) -> None:
        """Call `end` of all callbacks; `StopRun` has no effect any more."""
        with contextlib.suppress(StopRun):
            self._tell("as the run ended", lambda callback: callback.end(run))

    def _tell(self, when: str, call: Callable[[Callback], None]) -> None:
        for callback in tuple(self._watching):
            try:
                with np.errstate(**self._errors):  # NumPy's settings of the caller of the run
                    call(callback)
            except StopRun:
                raise
            except Exception as error:
                self._watching.remove(callback)
                text = f"callback {_name(callback)} failed {when}: {_words(error)}; the run continues without it"
                warnings.warn(text, CallbackWarning, stacklevel=4)


def _listed(callbacks: Callbacks) -> list[Callback]:
    if callbacks is None:
        return []
    several = isinstance(callbacks, Iterable) and not callable(callbacks) and not isinstance(callbacks, Callback)
    return [_checked(callback) for callback in (callbacks if several else [callbacks])]  # type: ignore[union-attr]


def _checked(callback: Any) -> Callback:
    if isinstance(callback, type):
        raise InputError("callback", f"the class {callback.__name__}", f"an instance, such as {callback.__name__}()")
    if isinstance(callback, Callback):
        return callback
    if not callable(callback):
        raise InputError("callback", f"{value_words(callback)}, {kind_words(callback)}", EXPECTED)
    return _Function(callback)


def _name(callback: Callback) -> str:
    named = callback.function if isinstance(callback, _Function) else type(callback)
    return repr(getattr(named, "__qualname__", None) or type(named).__name__)


def _words(error: Exception) -> str:
    """An error with the place that raised it: `KeyError: 'x' (plots.py, line 12)`."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
