"""A real Dask cluster of two worker processes, on this machine's own network, one of which is killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

import bilevelrl as bl
import worker_tasks as tasks
from child_processes import wait_until
from slowness import slow_unless
from worker_tasks import Counted


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    """Of two workers of one thread each, with nannies, which start a worker anew when it dies."""
    local: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 50}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **local) as cluster,
        distributed.Client(cluster) as connected,
    ):
        yield connected


def processes_of(client: distributed.Client) -> set[int]:
    """The two workers, once there are two."""
    client.wait_for_workers(2, timeout=60)
    return set(client.run(os.getpid).values())


class Killer:
    """A callback that kills a worker at the third iteration, while its tasks are on their way or under way."""

    def __init__(self, client: distributed.Client) -> None:
        self.victim = min(processes_of(client))
        self.killed = False

    def __call__(self, state: bl.outer_loop.OuterState) -> None:
        if state.iteration == 3:
            os.kill(self.victim, signal.SIGKILL)
            self.killed = True


@pytest.mark.parametrize("recipe", slow_unless("per-context".__eq__, ["per-context", "stoc-sobirl"]))
def test_a_run_whose_worker_is_killed_ends_with_the_same_answer(client: distributed.Client, recipe: str) -> None:
    """Contexts in the one case, sample batches in the other: bit for bit what one process finds alone."""
    if recipe == "per-context":
        problem, algorithm = bl.problem("four-rooms"), bl.algorithm(recipe)
    else:
        problem = bl.problem("gridworld-preferences", size=3, horizon=6)
        algorithm = bl.algorithm(recipe, batch=64, samples=500)
    alone = algorithm.run(problem, iterations=8, seed=1)
    killer = Killer(client)
    run = algorithm.run(problem, iterations=8, seed=1, jobs="dask", callback=killer)
    assert killer.killed
    assert run.x.tobytes() == alone.x.tobytes()
    assert run.history["objective"].tobytes() == alone.history["objective"].tobytes()
    assert killer.victim not in processes_of(client)


def test_tasks_under_way_in_a_killed_worker_are_done_again(client: distributed.Client, tmp_path: Path) -> None:
    """By Dask itself, which knows what was lost."""
    before = processes_of(client)
    with bl.use_jobs("dask"):
        assert bl.execution.parallel_map(tasks.dies_once, tmp_path / "killed", range(12)) == [
            task**2 for task in range(12)
        ]
    assert processes_of(client) != before


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_named(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives up at the first death here, at the fourth by default; then it is tried again, twice."""
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    processes_of(client)
    with (
        bl.use_jobs("dask"),
        pytest.raises(bl.validation.WorkerLost, match=r"^task 1 of 3, always_dies of 1: ") as caught,
    ):
        bl.execution.parallel_map(tasks.always_dies, None, range(3))
    assert caught.value.task == 1


def test_what_is_shared_is_read_by_each_worker_once(client: distributed.Client, tmp_path: Path) -> None:
    workers, shared = processes_of(client), Counted(tmp_path / "log")
    with bl.use_jobs("dask"):

        def all_have_read() -> bool:
            bl.execution.parallel_map(tasks.process_of, shared, [0.05] * 8)
            return set(shared.deliveries()) == workers

        wait_until(all_have_read)
        bl.execution.parallel_map(tasks.process_of, (shared, 1), [0.0] * 8)
    assert Counter(shared.deliveries()) == dict.fromkeys(workers, 1)


@pytest.mark.slow
def test_seeds_and_comparisons_take_a_cluster_too(client: distributed.Client) -> None:
    """The same argument, the same answers."""
    problem = bl.problem("synthetic-quadratic", states=4, actions=3, dimension=3)
    algorithm = bl.algorithm("m-sobirl")
    here = algorithm.run_seeds(problem, seeds=3, iterations=4)
    there = algorithm.run_seeds(problem, seeds=3, iterations=4, jobs="dask")
    assert [run.x.tobytes() for run in there] == [run.x.tobytes() for run in here]
    options: dict[str, Any] = {"seeds": 2, "budget": "iterations=3", "grid": [1.0], "checkpoints": 2}
    one, other = (bl.compare(problem, ["m-sobirl"], jobs=jobs, **options) for jobs in (1, "dask"))
    assert one["m-sobirl"].objectives.tobytes() == other["m-sobirl"].objectives.tobytes()


@pytest.mark.slow
def test_a_worker_s_error_is_the_task_s_own(client: distributed.Client) -> None:
    with bl.use_jobs("dask"), pytest.raises(bl.InputError, match="the second task is late"):
        bl.execution.parallel_map(tasks.fails, np.zeros(3), range(4))
