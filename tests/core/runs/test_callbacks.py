"""Callbacks: what they are shown, in which order, and that none of them can cost the run."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl

ALGORITHM = bl.algorithm("m-sobirl", step_size=1e-3)
PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)


class Recorder(bl.Callback):
    """Keeps everything it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def begin(self, facts: bl.runs.RunFacts) -> None:
        self.seen.append(("begin", facts))

    def see(self, state: bl.outer_loop.OuterState, row: Mapping[str, float]) -> None:
        self.seen.append(("see", (state, row)))

    def end(self, run: bl.Run) -> None:
        self.seen.append(("end", run))

    @property
    def calls(self) -> list[str]:
        return [call for call, _ in self.seen]


def run(callback: Any, **options: Any) -> bl.Run:
    return ALGORITHM.run(PROBLEM, **({"iterations": 2, "seed": 4} | options), callback=callback)


def test_callback_is_shown_the_beginning_every_state_with_its_row_and_the_end() -> None:
    recorder = Recorder()
    came = run(recorder)
    assert recorder.calls == ["begin", "see", "see", "see", "end"]
    assert recorder.seen[-1][1] is came
    for k, (_, (state, row)) in enumerate(recorder.seen[1:-1]):
        assert (state.iteration, tuple(row)) == (k, came.history.columns)
        np.testing.assert_array_equal(list(row.values()), [came.history[column][k] for column in came.history.columns])
        assert row["objective"] == state.hyper.objective
        assert row["backups"] == state.cost.backups


def test_facts_are_the_effective_configuration_and_what_makes_the_run(tmp_path: Path) -> None:
    recorder = Recorder()
    came = run(recorder, out=tmp_path)
    facts = recorder.seen[0][1]
    assert facts.problem is PROBLEM
    assert facts.algorithm is ALGORITHM
    assert facts.directory == tmp_path
    assert facts.iteration == 0
    assert facts.experiment.tables == came.experiment().tables
    assert facts.experiment.settings == {"iterations": 2, "seed": 4, "tolerance": 0.0}
    assert facts.environment["versions"]["bilevelrl"] == bl.__version__


def test_run_that_goes_on_shows_the_state_of_its_checkpoint_once_more(tmp_path: Path) -> None:
    run(None, out=tmp_path)
    recorder = Recorder()
    came = ALGORITHM.resume(PROBLEM, tmp_path, iterations=4, callback=recorder)
    assert recorder.seen[0][1].iteration == 2
    assert [seen[0].iteration for call, seen in recorder.seen if call == "see"] == [2, 3, 4]
    assert recorder.seen[0][1].history is came.history


def test_several_callbacks_and_functions_take_turns() -> None:
    order: list[str] = []
    first, second = Recorder(), Recorder()
    run([first, lambda state: order.append(f"function {state.iteration}"), second])
    assert first.calls == second.calls == ["begin", "see", "see", "see", "end"]
    assert order == ["function 0", "function 1", "function 2"]


@attrs.frozen
class Failing:
    """An optimizer that fails at its second step."""

    name = "failing"
    error: BaseException

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: Any, state: bl.OptimizerState) -> tuple[bl.Array, bl.OptimizerState]:
        if state.steps == 1:
            raise self.error
        return 0.9 * x, bl.OptimizerState(state.steps + 1)


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()], ids=repr)
def test_end_is_told_whatever_ends_the_run(error: BaseException) -> None:
    """A logger has a file to close."""
    recorder, algorithm = Recorder(), attrs.evolve(ALGORITHM, upper=Failing(error))
    with contextlib.suppress(RuntimeError):
        algorithm.run(PROBLEM, iterations=9, callback=recorder)
    assert recorder.calls == ["begin", "see", "see", "end"]
    ended = recorder.seen[-1][1]
    assert (ended.status, ended.last.iteration, len(ended.history)) == (bl.Status.INTERRUPTED, 1, 2)


class Clumsy(Recorder):
    """Fails in one of its three calls."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def begin(self, facts: bl.runs.RunFacts) -> None:
        super().begin(facts)
        self.stumble("begin")

    def see(self, state: bl.outer_loop.OuterState, row: Mapping[str, float]) -> None:
        super().see(state, row)
        if state.iteration == 1:
            self.stumble("see")

    def end(self, run: bl.Run) -> None:
        super().end(run)
        self.stumble("end")

    def stumble(self, call: str) -> None:
        if self.where == call:
            raise KeyError(call)


@pytest.mark.parametrize(
    ("where", "when", "calls"),
    [
        ("begin", "as the run began", ["begin"]),
        ("see", "at iteration 1", ["begin", "see", "see"]),
        ("end", "as the run ended", ["begin", "see", "see", "see", "end"]),
    ],
)
def test_callback_that_fails_is_named_and_left_out_and_the_run_is_the_same(
    where: str, when: str, calls: list[str], tmp_path: Path
) -> None:
    clumsy, other = Clumsy(where), Recorder()
    with pytest.warns(bl.runs.CallbackWarning) as told:
        came = run([clumsy, other], out=tmp_path)
    (warning,) = told
    text = str(warning.message)
    assert text.startswith(f"callback 'Clumsy' failed {when}: KeyError: '{where}' (test_callbacks.py, line ")
    assert text.endswith("); the run continues without it")
    assert clumsy.calls == calls
    assert other.calls == ["begin", "see", "see", "see", "end"]
    alone = run(None)
    assert came.x.tobytes() == alone.x.tobytes()
    assert came.status is alone.status
    assert bl.load_run(tmp_path).x.tobytes() == alone.x.tobytes()


def test_function_that_fails_is_named_too() -> None:
    def stumble(state: bl.outer_loop.OuterState) -> None:
        raise ZeroDivisionError

    with pytest.warns(bl.runs.CallbackWarning, match=r"callback '.*stumble' failed at iteration 0: ZeroDivisionError"):
        assert run(stumble).last.iteration == 2


def test_where_warnings_are_errors_a_failing_callback_stops_the_run_and_the_run_is_kept(tmp_path: Path) -> None:
    """For those who would rather stop: Python's own switch, and nothing is lost by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", bl.runs.CallbackWarning)
        with pytest.raises(bl.runs.CallbackWarning) as caught:
            run(Clumsy("see"), iterations=5, out=tmp_path)
    assert isinstance(caught.value.__context__, KeyError)
    assert any("resume with" in note for note in caught.value.__notes__)
    assert bl.load_run(tmp_path).last.iteration == 1
    assert ALGORITHM.resume(PROBLEM, tmp_path).x.tobytes() == run(None, iterations=5).x.tobytes()


@pytest.mark.parametrize(
    ("callback", "complaint"),
    [
        (5, "callback is 5, an int; expected a Callback, a function of the state, or several of them"),
        ([print, "text"], "callback is 'text', a str; expected"),
        (Recorder, r"callback is the class Recorder; expected an instance, such as Recorder\(\)"),
    ],
    ids=repr,
)
def test_what_is_no_callback_is_told_before_anything_runs(callback: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(bl.InputError, match=complaint):
        run(callback, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_callback_that_raises_stop_run_ends_the_run_with_a_status_and_it_can_be_resumed(tmp_path: Path) -> None:
    """The run is returned and saved as any other, every callback sees its end, and resuming continues bit for bit."""
    other = Recorder()

    def settled(state: bl.outer_loop.OuterState) -> None:
        if state.iteration == 2:
            raise bl.runs.StopRun("settled")

    stopped = run([settled, other], iterations=5, out=tmp_path)
    assert (stopped.status, stopped.stopped_by, stopped.last.iteration) == (bl.Status.STOPPED, "settled", 2)
    assert other.calls[-1] == "end"
    assert bl.load_run(tmp_path).status is bl.Status.STOPPED
    assert ALGORITHM.resume(PROBLEM, tmp_path).x.tobytes() == run(None, iterations=5).x.tobytes()


def test_the_best_iterate_is_saved_and_kept_up_to_date_after_resuming(tmp_path: Path) -> None:
    whole = run(None, iterations=6)
    run(None, iterations=3, out=tmp_path)
    loaded = bl.load_run(tmp_path)
    assert loaded.best.objective == loaded.history["objective"].min()
    resumed = ALGORITHM.resume(PROBLEM, tmp_path, iterations=6)
    assert (resumed.best.iteration, resumed.best.objective) == (whole.best.iteration, whole.best.objective)
    assert resumed.best.x.tobytes() == whole.best.x.tobytes()
