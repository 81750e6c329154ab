"""`parallel_map`: the same results for any workers; what is shared is sent once, and what is lost is done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
import worker_tasks as tasks
from bilevelrl.execution.workers import completed
from child_processes import HANGING, start, wait_until
from worker_tasks import Counted, Lock

MATRIX = np.random.default_rng(0).standard_normal((300, 257))
WORKERS = (2, "threading")
"""Processes, and a joblib backend by its name: one that needs no cluster."""


class Told(list[Any]):
    """Keeps what it is told."""

    def __call__(self, *counts: int) -> None:
        self.append(counts)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files of this test alone."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def files(place: Path) -> set[Path]:
    """Directories of runs that share something."""
    return set(place.glob("bilevelrl-*"))


# --- The same answer


def test_all_workers_give_the_same_bits_in_the_order_of_the_tasks() -> None:
    """Products of odd sizes, whose last bits differ with the number of BLAS threads and with the order of sums."""
    here = bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(6))
    for jobs in (1, *WORKERS):
        with bl.use_jobs(jobs):
            there = bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(6))
        for index in range(6):
            for one, other in zip(here[index], there[index], strict=True):
                assert one.tobytes() == other.tobytes(), (jobs, index)


def test_blas_has_one_thread_inside_a_task_wherever_it_is_done_and_its_own_number_after() -> None:
    before = tasks.blas_threads(None, 0)
    for jobs in (None, *WORKERS):
        with bl.use_jobs(jobs):
            inside = bl.execution.parallel_map(tasks.blas_threads, None, range(4))
        assert inside
        assert all(numbers and set(numbers) == {1} for numbers in inside), jobs
    assert tasks.blas_threads(None, 0) == before


def test_numpys_handling_of_errors_is_the_callers() -> None:
    with np.errstate(over="ignore", divide="raise"):
        expected = np.geterr()
        for jobs in (None, *WORKERS):
            with bl.use_jobs(jobs):
                assert bl.execution.parallel_map(tasks.floating_point_errors, None, range(3)) == [expected] * 3


def test_a_worker_does_not_ask_others_for_help() -> None:
    """A map inside a task is done by the same process, and `use_jobs` starts none there."""
    for jobs in WORKERS:
        with bl.use_jobs(jobs):
            for process, inside, others in bl.execution.parallel_map(tasks.nested, None, range(3)):
                assert inside
                assert others == [process, process]


def test_one_task_alone_is_done_here_and_may_use_the_workers_itself() -> None:
    def whole(shared: Any, task: int) -> set[int]:
        return set(bl.execution.parallel_map(tasks.process_of, None, [0.05] * 6))

    with bl.use_jobs(2):
        (used,) = bl.execution.parallel_map(whole, None, [0])
    assert os.getpid() not in used


def test_a_function_of_this_very_test_travels_too() -> None:
    """As one from a notebook does, which no module holds."""
    factor = 3.0
    with bl.use_jobs(2):
        assert bl.execution.parallel_map(lambda shared, task: factor * shared * task, 2.0, range(3)) == [0.0, 6.0, 12.0]


def test_progress_counts_to_the_number_of_tasks() -> None:
    for jobs in (None, 2):
        told = Told()
        with bl.use_jobs(jobs):
            bl.execution.parallel_map(tasks.process_of, None, [0.0] * 3, progress=told)
        assert told == [(1, 3), (2, 3), (3, 3)]


# --- What is shared


def test_what_is_shared_comes_to_each_worker_once(tmp_path: Path) -> None:
    """Not once a task, nor once a map. Tasks are repeated until both workers have taken part."""
    shared = Counted(tmp_path / "log")
    with bl.use_jobs(2):
        used: set[int] = set()

        def both_have_taken_part() -> bool:
            used.update(bl.execution.parallel_map(tasks.process_of, shared, [0.05] * 8))
            return len(used) == 2

        wait_until(both_have_taken_part)
        for extra in range(3):  # a tuple's items are sent one by one: only the small new one is
            bl.execution.parallel_map(tasks.process_of, (shared, extra), [0.0] * 4)
    assert Counter(shared.deliveries()) == dict.fromkeys(used, 1)


def test_what_has_changed_between_two_runs_is_sent_again() -> None:
    """A run in a block begins with `use_jobs(None)`."""
    shared = [1]
    with bl.use_jobs(2):
        for expected in (1, 5):
            shared[0] = expected
            with bl.use_jobs(None):
                assert bl.execution.parallel_map(tasks.first_of, shared, range(4)) == [expected] * 4


def test_files_are_private_and_gone_with_the_block(place: Path) -> None:
    with bl.use_jobs(2):
        bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(2))
        (made,) = files(place)
        assert made.stat().st_mode & 0o777 == 0o700
        assert len(list(made.iterdir())) == 1
    assert files(place) == set()
    with pytest.raises(bl.InputError), bl.use_jobs(2):
        bl.execution.parallel_map(tasks.fails, MATRIX, range(3))
    assert files(place) == set()


def test_few_files_are_kept_however_many_maps_there_are(place: Path) -> None:
    """A run of thousands of iterations shares a new policy in each of them."""
    with bl.use_jobs(2):
        for iteration in range(12):
            bl.execution.parallel_map(tasks.process_of, (MATRIX, MATRIX + iteration), [0.0, 0.0])
        (made,) = files(place)
        assert len(list(made.iterdir())) <= 4


def test_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with (
        bl.use_jobs(2),
        pytest.raises(bl.InputError, match=r"temporary directory '/proc/nowhere' is without 0.6 MB .* \(set TMPDIR\)"),
    ):
        bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(2))


# --- Errors


def test_of_several_errors_the_first_task_s_is_raised_as_it_was() -> None:
    """Also where a later task has failed before it; with all it knows, and with where in a worker it happened."""
    for jobs in (None, *WORKERS):
        with bl.use_jobs(jobs), pytest.raises(bl.InputError, match="the second task is late") as caught:
            bl.execution.parallel_map(tasks.fails, None, range(6))
        assert (caught.value.field, caught.value.expected) == ("the second task", "an error all the same")
        if jobs == 2:
            assert "worker_tasks.py" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_read_back_is_told_in_words() -> None:
    with bl.use_jobs(2), pytest.raises(RuntimeError, match="AwkwardError: 1 and 0"):
        bl.execution.parallel_map(tasks.fails_awkwardly, None, range(2))


def test_what_cannot_be_sent_is_named_with_its_place() -> None:
    problem = bl.problem("synthetic-quadratic", states=3, dimension=2)
    bad = bl.BilevelProblem(problem.lower, problem.objective, measures=Lock().lock.acquire)  # type: ignore[arg-type]
    expected = r"BilevelProblem\.measures is a builtin_function_or_method .* \(cannot pickle .*lock.*\); .* or jobs=1"
    with bl.use_jobs(2):
        with pytest.raises(bl.InputError, match=expected):
            bl.execution.parallel_map(tasks.process_of, bad, [0.0, 0.0])
        with pytest.raises(bl.InputError, match=r"^task 0\['lock'\] is a lock that cannot be sent"):
            bl.execution.parallel_map(tasks.process_of, None, [{"lock": Lock().lock}, {}])


@pytest.mark.parametrize("jobs", [0, -1, True, 1.5, "nonsense", [2]], ids=repr)
def test_anything_but_a_number_or_a_backend_is_rejected(jobs: Any) -> None:
    with pytest.raises(bl.InputError, match=r"^jobs is "), bl.use_jobs(jobs):
        pass


# --- Death


def test_a_killed_worker_s_tasks_are_done_again(tmp_path: Path) -> None:
    """By SIGKILL, as for want of memory; and the pool goes on being of use."""
    marker = tmp_path / "killed"
    with bl.use_jobs(2):
        assert bl.execution.parallel_map(tasks.dies_once, marker, range(6)) == [0, 1, 4, 9, 16, 25]
        assert marker.exists()
        with pytest.warns(bl.storage.CheckpointWarning, match="something is odd"):  # what a worker warns of comes here
            assert bl.execution.parallel_map(tasks.warns, None, range(2)) == [0, 1]
        assert len(set(bl.execution.parallel_map(tasks.process_of, None, [0.1] * 4))) == 2


def test_a_task_that_kills_every_worker_is_named_and_the_others_are_not_blamed() -> None:
    with (
        bl.use_jobs(2),
        pytest.raises(bl.validation.WorkerLost, match=r"^task 1 of 3, always_dies of 1: .* died 3 times") as caught,
    ):
        bl.execution.parallel_map(tasks.always_dies, None, range(3))
    assert caught.value.task == 1


@pytest.mark.slow
def test_a_patient_map_does_all_other_tasks_before_it_names_the_one_that_kills() -> None:
    """Also those that had not begun when it killed its last worker."""
    done: list[tuple[int, int]] = []

    def collect() -> None:
        for answer in completed(tasks.always_dies, 0.2, range(9), patient=True):
            done.append(answer)  # noqa: PERF402 — what came before the error counts

    told = r"^task 1 of 9, always_dies of 1: .* died 3 times"
    with bl.use_jobs(2), pytest.raises(bl.validation.WorkerLost, match=told) as caught:
        collect()
    assert caught.value.task == 1
    assert sorted(done) == [(index, index) for index in range(9) if index != 1]


@pytest.mark.slow
def test_a_worker_that_dies_between_two_maps_is_replaced() -> None:
    with bl.use_jobs(2):
        for _ in range(2):
            os.kill(bl.execution.parallel_map(tasks.process_of, None, [0.0] * 2)[0], signal.SIGKILL)
        assert bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(2))


SCRIPT = """
import bilevelrl as bl

def square(shared, task):
    return shared * task**2

with bl.use_jobs(2):
    print(*bl.execution.parallel_map(square, 3, range(4)))
"""


def run_script(path: Path, text: str) -> subprocess.Popen[str]:
    path.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(path.parent)}
    return start(sys.executable, path, env=environment)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """New processes do not import it; its functions are sent by value."""
    script = run_script(tmp_path / "script.py", SCRIPT)
    assert script.communicate(timeout=HANGING) == ("0 3 12 27\n", "")


ORPHANS = """
import bilevelrl as bl, worker_tasks
import numpy as np

with bl.use_jobs(2):
    shared = np.zeros(100_000)
    print(*set(bl.execution.parallel_map(worker_tasks.process_of, shared, [0.2] * 4)), flush=True)
    bl.execution.parallel_map(worker_tasks.process_of, shared, [60.0] * 2)
"""


def test_workers_and_files_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = run_script(tmp_path / "script.py", ORPHANS)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers
    assert list(tmp_path.glob("bilevelrl-*"))
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=HANGING)
    wait_until(lambda: not any(map(is_alive, workers)) and not list(tmp_path.glob("bilevelrl-*")))


INTERRUPTED = """
import time
import bilevelrl as bl
from bilevelrl.execution.workers import completed

def saves(shared, task):
    open(f"{shared}/begun-{task}", "w").close()
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        return "saved"

with bl.use_jobs(2):
    try:
        for index, result in completed(saves, DIRECTORY, range(8), patient=True):
            print(index, result)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize(
    "everyone",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["the parent alone", "the whole process group"],
)
def test_ctrl_c_has_the_tasks_under_way_save_what_they_have(tmp_path: Path, everyone: bool) -> None:
    """A terminal sends it to all processes; `kill` sends it to one.

    In the first case the next tasks may begin before the parent knows of it; they are interrupted too.
    """
    text = INTERRUPTED.replace("DIRECTORY", repr(str(tmp_path)))
    script = run_script(tmp_path / "script.py", text)
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) >= 2, script)
    (os.killpg if everyone else os.kill)(script.pid, signal.SIGINT)
    out, errors = script.communicate(timeout=HANGING)
    *results, end = out.splitlines()
    saved = [f"{task} saved" for task in range(4 if everyone else 2)]
    assert (errors, end) == ("", "interrupted")
    assert set(saved[:2]) <= set(results) <= set(saved)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
