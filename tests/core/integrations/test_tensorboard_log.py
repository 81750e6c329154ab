"""What TensorBoard shows of a run, read back with TensorBoard's own reader."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.cli import main
from bilevelrl.storage.history import COLUMNS

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

ALGORITHM = bl.algorithm("m-sobirl", step_size=1e-3)
PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)


def read(directory: Path) -> Any:
    reader = accumulator.EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def curve(directory: Path, tag: str) -> tuple[list[int], list[float]]:
    events = read(directory).Scalars(tag)
    return [event.step for event in events], [event.value for event in events]


def text(directory: Path, tag: str) -> str:
    """The last text under a tag."""
    told: bytes = read(directory).Tensors(tag)[-1].tensor_proto.string_val[0]
    return told.decode()


def assert_whole(directory: Path, run: bl.Run) -> None:
    """Every figure of every iteration, once, to the precision of TensorBoard's float32."""
    for column in run.history.row(0):
        values = run.history[column]
        if column == "iteration" or np.isnan(values).all():
            continue
        steps, logged = curve(directory, f"cost/{column}" if column not in COLUMNS or column == "seconds" else column)
        assert steps == list(range(len(run.history))), column
        if column != "seconds":
            np.testing.assert_array_equal(np.float32(logged), values.astype(np.float32), err_msg=column)


def test_every_row_of_the_history_is_a_step(tmp_path: Path) -> None:
    run = ALGORITHM.run(PROBLEM, iterations=5, callback=bl.integrations.TensorBoard(tmp_path))
    assert_whole(tmp_path, run)
    assert "standard_error" not in read(tmp_path).Tags()["scalars"]  # NaN in every row: nothing to show


def test_experiment_and_end_are_there_in_words(tmp_path: Path) -> None:
    run = ALGORITHM.run(PROBLEM, iterations=3, callback=bl.integrations.TensorBoard(tmp_path))
    assert text(tmp_path, "experiment") == run.experiment().to_toml()
    assert f"status: {run.status.advice}" in text(tmp_path, "end")


def test_only_every_nth_row_where_that_is_wanted(tmp_path: Path) -> None:
    ALGORITHM.run(PROBLEM, iterations=7, callback=bl.integrations.TensorBoard(tmp_path, every=3))
    assert curve(tmp_path, "objective")[0] == [0, 3, 6]


def test_run_that_goes_on_has_no_step_twice_and_none_missing(tmp_path: Path) -> None:
    """The log ran ahead of the checkpoint, as it does where a process is killed."""
    out, log = tmp_path / "run", tmp_path / "log"
    ALGORITHM.run(PROBLEM, iterations=4, out=out, checkpoint_every=100)
    ALGORITHM.run(PROBLEM, iterations=9, callback=bl.integrations.TensorBoard(log))
    run = ALGORITHM.resume(PROBLEM, out, iterations=6, callback=bl.integrations.TensorBoard(log))
    assert_whole(log, run)


def test_log_that_begins_late_is_given_what_was_before_it(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    ALGORITHM.run(PROBLEM, iterations=4, out=out)
    assert_whole(log, ALGORITHM.resume(PROBLEM, out, iterations=6, callback=bl.integrations.TensorBoard(log)))


def test_new_run_in_the_directory_of_another_takes_its_place(tmp_path: Path) -> None:
    ALGORITHM.run(PROBLEM, iterations=9, seed=1, callback=bl.integrations.TensorBoard(tmp_path))
    assert_whole(tmp_path, ALGORITHM.run(PROBLEM, iterations=3, callback=bl.integrations.TensorBoard(tmp_path)))


def test_record_cut_off_by_a_loss_of_power_does_not_hide_what_came_later(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    ALGORITHM.run(PROBLEM, iterations=4, out=out, callback=bl.integrations.TensorBoard(log))
    (file,) = log.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    run = ALGORITHM.resume(PROBLEM, out, iterations=6, callback=bl.integrations.TensorBoard(log))
    assert_whole(log, run)


def test_kill_loses_no_row_that_was_seen(tmp_path: Path) -> None:
    """Rows go to the system as they come: none waits in a thread of the process that dies."""
    program = (
        "import os, signal, sys, bilevelrl as bl\n"
        "def kill(state):\n"
        "    if state.iteration == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "problem = bl.problem('synthetic-quadratic', states=3, actions=2, dimension=2)\n"
        "bl.algorithm('m-sobirl', step_size=1e-3).run(problem, iterations=9, out=sys.argv[1], checkpoint_every=2,\n"
        "    callback=[bl.integrations.TensorBoard(sys.argv[2]), kill])\n"
    )
    out, log = tmp_path / "run", tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", program, str(out), str(log)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert curve(log, "objective")[0] == [0, 1, 2, 3, 4, 5]
    assert_whole(log, bl.resume_run(out, callback=bl.integrations.TensorBoard(log)))


def test_disk_that_is_full_costs_the_log_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = bl.integrations.TensorBoard(tmp_path)

    def fill(state: bl.outer_loop.OuterState) -> None:
        if state.iteration == 2:
            monkeypatch.setattr(log._writer._writer, "flush", full)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.warns(
        bl.runs.CallbackWarning, match=r"'TensorBoard' failed at iteration 3: OSError: \[Errno 28\] No space"
    ):
        assert ALGORITHM.run(PROBLEM, iterations=5, callback=[log, fill]).last.iteration == 5
    assert curve(tmp_path, "objective")[0][:3] == [0, 1, 2]


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(bl.InputError, match=r"tensorboard is not installed; expected pip install 'bilevelrl\[tensor"):
        bl.integrations.TensorBoard(tmp_path)


@pytest.mark.parametrize("every", [0, 2.0, "3"])
def test_interval_of_nothing_is_rejected(every: Any, tmp_path: Path) -> None:
    with pytest.raises(bl.InputError, match="every is"):
        bl.integrations.TensorBoard(tmp_path, every=every)


RUN = ("run", "synthetic-quadratic", "--set", "problem.dimension=3", "--set", "step_size=1e-3", "--iterations", "4")


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_command_line_logs_beside_the_run_or_where_it_is_told_and_goes_on(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    logs = ("--log", "tensorboard", "--log", f"tensorboard={elsewhere}")
    assert command(*RUN, "--out", str(out), *logs) == 0
    assert command("resume", str(out), "--iterations", "6", *logs) == 0
    for directory in (out / "tensorboard", elsewhere):
        assert_whole(directory, bl.load_run(out))


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ("tensorbord", "--log is 'tensorbord'; expected a known name; did you mean 'tensorboard'?"),
        ("tensorboard", "--log is 'tensorboard'; expected a directory, such as tensorboard=runs/log, or the option"),
        ("tensorboard=", "--log is 'tensorboard='; expected a directory"),
    ],
)
def test_command_line_tells_a_logger_or_a_directory_that_is_missing(
    log: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*RUN, "--log", log) == 2
    assert complaint in capsys.readouterr().err


def test_command_line_tells_a_directory_that_cannot_be_written_before_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in its place, a file above it, a disk that takes nothing; and the run is not begun."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    out = tmp_path / "run"
    for directory in (tmp_path / "file", tmp_path / "file" / "log"):
        assert command(*RUN, "--log", f"tensorboard={directory}", "--out", str(out)) == 2
        words = f"Error: the directory {str(directory)!r} is not writable (Not a directory: {tmp_path / 'file'}); "
        assert capsys.readouterr().err == words + "expected one that can be written\n"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("bilevelrl.storage.files.tempfile.TemporaryFile", full)
    assert command(*RUN, "--log", "tensorboard", "--out", str(out)) == 2
    assert f"is not writable (Read-only file system: {tmp_path}); expected" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_command_line_tells_a_directory_that_is_given_to_two_logs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whose rows would be there twice; also where it is written in two ways."""
    out = tmp_path / "run"
    for other in ("tensorboard", f"tensorboard={out / '..' / 'run' / 'tensorboard'}"):
        assert command(*RUN, "--log", "tensorboard", "--log", other, "--out", str(out)) == 2
        told = capsys.readouterr().err
        assert told.startswith("Error: --log is 'tensorboard' twice into ")
        assert told.endswith("; expected a directory of its own for each\n")
    assert not out.exists()
