"""`parallel_map`: the same answer from whoever does the work; what is shared travels once, what dies is done again."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
import worker_tasks as tasks
from bilevelrl.execution.workers import completed
from worker_tasks import Counted, Elsewhere, Lock

Executor = concurrent.futures.Executor
MATRIX = np.random.default_rng(0).standard_normal((300, 257))


@pytest.fixture(scope="module")
def threads() -> Any:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool


class Told(list[Any]):
    """Keeps what it is told."""

    def __call__(self, *counts: int) -> None:
        self.append(counts)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files of this test alone."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("bilevelrl.execution.payloads.tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def files(place: Path) -> set[Path]:
    """Of runs that share something."""
    return set(place.glob("bilevelrl-*"))


# --- The same answer


def test_every_executor_gives_the_same_bits_in_the_order_of_the_tasks(processes: Executor, threads: Executor) -> None:
    """Products of odd sizes, whose last bits differ with the number of BLAS threads and with the order of sums."""
    here = bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(6))
    for jobs in (1, processes, threads, Elsewhere(processes)):
        with bl.use_jobs(jobs):
            there = bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(6))
        for index in range(6):
            for one, other in zip(here[index], there[index], strict=True):
                assert one.tobytes() == other.tobytes(), (jobs, index)


def test_blas_has_one_thread_inside_a_task_wherever_it_is_done_and_its_own_number_after(
    processes: Executor, threads: Executor
) -> None:
    before = tasks.blas_threads(None, 0)
    for jobs in (None, processes, threads):
        with bl.use_jobs(jobs):
            inside = bl.execution.parallel_map(tasks.blas_threads, None, range(4))
        assert inside
        assert all(numbers and set(numbers) == {1} for numbers in inside), jobs
    assert tasks.blas_threads(None, 0) == before


def test_numpys_handling_of_errors_is_the_callers(processes: Executor, threads: Executor) -> None:
    with np.errstate(over="ignore", divide="raise"):
        expected = np.geterr()
        for jobs in (None, processes, threads):
            with bl.use_jobs(jobs):
                assert bl.execution.parallel_map(tasks.floating_point_errors, None, range(3)) == [expected] * 3


def test_a_worker_does_not_ask_others_for_help(processes: Executor, threads: Executor) -> None:
    """A map inside a task is done by the same process, and `use_jobs` starts none there."""
    for jobs in (processes, threads):
        with bl.use_jobs(jobs):
            for process, inside, others in bl.execution.parallel_map(tasks.nested, None, range(3)):
                assert inside
                assert others == [process, process]


def test_one_task_alone_is_done_here_and_may_use_the_workers_itself(processes: Executor) -> None:
    def whole(shared: Any, task: int) -> set[int]:
        return set(bl.execution.parallel_map(tasks.process_of, None, [0.05] * 6))

    with bl.use_jobs(processes):
        (used,) = bl.execution.parallel_map(whole, None, [0])
    assert os.getpid() not in used


def test_a_function_of_this_very_test_travels_too(processes: Executor) -> None:
    """As one from a notebook does, which no module holds."""
    factor = 3.0
    with bl.use_jobs(processes):
        assert bl.execution.parallel_map(lambda shared, task: factor * shared * task, 2.0, range(3)) == [0.0, 6.0, 12.0]


def test_progress_counts_to_the_number_of_tasks(processes: Executor) -> None:
    for jobs in (None, processes):
        told = Told()
        with bl.use_jobs(jobs):
            bl.execution.parallel_map(tasks.process_of, None, [0.0] * 3, progress=told)
        assert told == [(1, 3), (2, 3), (3, 3)]


# --- What is shared


@pytest.mark.parametrize("elsewhere", [False, True], ids=["on this machine", "on another machine"])
def test_what_is_shared_comes_to_each_worker_once(processes: Executor, tmp_path: Path, elsewhere: bool) -> None:
    """Not once a task, nor once a map; and on a machine that cannot read the files, no more than once a worker either.

    That each of two workers takes part is waited for, since nobody can tell an executor which is to.
    """
    shared = Counted(tmp_path / "log")
    with bl.use_jobs(Elsewhere(processes) if elsewhere else processes):
        used: set[int] = set()
        while len(used) < 2:
            used |= set(bl.execution.parallel_map(tasks.process_of, shared, [0.05] * 8))
        for extra in range(3):  # a tuple's items travel one by one: only the small new one is sent
            bl.execution.parallel_map(tasks.process_of, (shared, extra), [0.0] * 4)
        with bl.use_jobs(None):  # as each run does: what has not changed is not sent again
            bl.execution.parallel_map(tasks.process_of, shared, [0.0] * 4)
    assert Counter(shared.deliveries()) == dict.fromkeys(used, 1)


def test_nothing_large_travels_with_a_task(processes: Executor, tmp_path: Path) -> None:
    """On another machine 800 kB are sent alone, once a worker, or a few times more where another one took them."""
    shared = Counted(tmp_path / "log")
    remote = Elsewhere(processes)
    with bl.use_jobs(remote):
        bl.execution.parallel_map(tasks.process_of, shared, [0.01] * 40)
    large = [size for size in remote.sent if size]
    assert all(size > shared.numbers.nbytes for size in large)
    assert 1 <= len(large) <= 6  # nobody can tell an executor who is to have it: on a busy machine the wrong one may
    assert len(remote.sent) < 40 + 2 + 8 * os.cpu_count()  # type: ignore[operator]  # those that came back once


def test_threads_share_by_reference(threads: Executor) -> None:
    """Nothing is pickled, so a thing that cannot be is no obstacle."""
    lock = Lock()
    with bl.use_jobs(threads):
        assert all(bl.execution.parallel_map(lambda shared, task: shared is lock, lock, range(4)))


def test_files_are_private_and_gone_with_the_block(processes: Executor, place: Path) -> None:
    with bl.use_jobs(processes):
        bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(2))
        (made,) = files(place)
        assert made.stat().st_mode & 0o777 == 0o700
        assert len(list(made.iterdir())) == 1
    assert files(place) == set()
    with pytest.raises(bl.InputError), bl.use_jobs(processes):
        bl.execution.parallel_map(tasks.fails, MATRIX, range(3))
    assert files(place) == set()


def test_few_files_are_kept_however_many_maps_there_are(processes: Executor, place: Path) -> None:
    """A run of thousands of iterations shares a new policy in each of them."""
    with bl.use_jobs(processes):
        for iteration in range(12):
            bl.execution.parallel_map(tasks.process_of, (MATRIX, MATRIX + iteration), [0.0, 0.0])
        (made,) = files(place)
        assert len(list(made.iterdir())) <= 4


def test_full_disk_is_one_sentence(processes: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilevelrl.execution.payloads.tempfile.tempdir", "/proc/nowhere")
    with (
        bl.use_jobs(processes),
        pytest.raises(bl.InputError, match=r"temporary directory '/proc/nowhere' is without 1 MB .* \(set TMPDIR\)"),
    ):
        bl.execution.parallel_map(tasks.arithmetic, MATRIX, range(2))


# --- Errors


def test_of_several_errors_the_first_task_s_is_raised_as_it_was(processes: Executor, threads: Executor) -> None:
    """Also where a later task has failed before it; with all it knows, and with where in a worker it happened."""
    for jobs in (None, processes, threads):
        with bl.use_jobs(jobs), pytest.raises(bl.InputError, match="the second task is late") as caught:
            bl.execution.parallel_map(tasks.fails, None, range(6))
        assert (caught.value.field, caught.value.expected) == ("the second task", "an error all the same")
        if jobs is processes:
            assert "worker_tasks.py" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_read_back_is_told_in_words(processes: Executor) -> None:
    with bl.use_jobs(processes), pytest.raises(RuntimeError, match="AwkwardError: 1 and 0"):
        bl.execution.parallel_map(tasks.fails_awkwardly, None, range(2))


@pytest.mark.parametrize(
    "error",
    [
        bl.InputError("a", "b", "c"),
        bl.validation.UnknownNameError("a", "b", ["bb"]),
        bl.IncompatibleError("no"),
        bl.outer_loop.StepFailed(bl.Status.DIVERGED, "x", 3),
        bl.validation.WorkerLost("gone", 3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_exceptions_travel_whole(error: Any) -> None:
    from bilevelrl.execution import payloads

    copy = payloads.loads(payloads.dumps(error, "error"))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_what_cannot_be_sent_is_named_with_its_place(processes: Executor) -> None:
    problem = bl.problem("synthetic-quadratic", states=3, dimension=2)
    bad = bl.BilevelProblem(problem.lower, problem.objective, measures=Lock().lock.acquire)  # type: ignore[arg-type]
    expected = r"BilevelProblem\.measures is a builtin_function_or_method .* \(cannot pickle .*lock.*\); .* or jobs=1"
    with bl.use_jobs(processes):
        with pytest.raises(bl.InputError, match=expected):
            bl.execution.parallel_map(tasks.process_of, bad, [0.0, 0.0])
        with pytest.raises(bl.InputError, match=r"^task 0\.task\['lock'\] is a lock that no other process"):
            bl.execution.parallel_map(tasks.process_of, None, [{"lock": Lock().lock}, {}])


@pytest.mark.parametrize("jobs", [0, -1, True, 1.5, "2", [2]], ids=repr)
def test_anything_but_a_number_or_an_executor_is_rejected(jobs: Any) -> None:
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


def test_a_pool_of_somebody_else_s_is_not_renewed_and_that_is_said() -> None:
    spawn = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, spawn) as pool,
        bl.use_jobs(pool),
        pytest.raises(bl.validation.WorkerLost, match="jobs=N starts a pool that is renewed"),
    ):
        bl.execution.parallel_map(tasks.always_dies, None, [1, 1])


SCRIPT = """
import bilevelrl as bl, worker_tasks
with bl.use_jobs(2):
    bl.execution.parallel_map(worker_tasks.process_of, None, [0.0, 0.0])
"""


def run_script(path: Path, text: str) -> subprocess.Popen[str]:
    path.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(path.parent)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(path)], env=environment, **pipes)


def test_a_script_that_new_processes_cannot_import_is_told_what_to_do(tmp_path: Path) -> None:
    """Each new process would start processes of its own, were it not for the guard that everybody forgets once."""
    _, errors = run_script(tmp_path / "script.py", SCRIPT).communicate(timeout=60)
    assert errors.rstrip().endswith("since new processes import the script"), errors
    assert "WorkerLost: no process could be started; in a script, `jobs` belongs under `if __name__" in errors


ORPHANS = """
import os, sys, time
import bilevelrl as bl, worker_tasks
import numpy as np

if __name__ == "__main__":
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
    parent.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (any(map(is_alive, workers)) or list(tmp_path.glob("bilevelrl-*"))):
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    assert not list(tmp_path.glob("bilevelrl-*"))


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
