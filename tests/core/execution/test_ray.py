"""A real Ray cluster of two workers on this machine, one of which is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bilevelrl as bl
import worker_tasks as tasks

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray warns of its own files and sockets


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    import multiprocessing.pool

    from joblib.pool import PicklingPool

    paths = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    yield
    ray.shutdown()
    PicklingPool.__bases__ = (multiprocessing.pool.Pool,)  # Ray's backend replaces it for the whole process


def test_tasks_under_way_in_a_killed_worker_are_done_again(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((300, 257))
    here = bl.execution.parallel_map(tasks.arithmetic, matrix, range(4))
    with bl.use_jobs("ray"):
        processes = set(bl.execution.parallel_map(tasks.process_of, None, [0.2] * 4))
        assert os.getpid() not in processes
        assert bl.execution.parallel_map(tasks.dies_once, tmp_path / "killed", range(12)) == [
            task**2 for task in range(12)
        ]
        there = bl.execution.parallel_map(tasks.arithmetic, matrix, range(4))
    for one, other in zip(here, there, strict=True):
        assert [part.tobytes() for part in one] == [part.tobytes() for part in other]


def test_a_run_is_the_same_on_ray_although_a_worker_is_killed() -> None:
    """Contexts one by one; the worker is killed at the third iteration."""
    problem, algorithm = bl.problem("four-rooms"), bl.algorithm("per-context")
    alone = algorithm.run(problem, iterations=4, seed=1)

    def kill(state: bl.outer_loop.OuterState) -> None:
        if state.iteration == 3:
            os.kill(bl.execution.parallel_map(tasks.process_of, None, [0.0] * 2)[0], signal.SIGKILL)

    run = algorithm.run(problem, iterations=4, seed=1, jobs="ray", callback=kill)
    assert run.x.tobytes() == alone.x.tobytes()


def test_seeds_and_errors() -> None:
    problem, algorithm = bl.problem("synthetic-quadratic", states=4, dimension=3), bl.algorithm("m-sobirl")
    here = algorithm.run_seeds(problem, seeds=3, iterations=4)
    there = algorithm.run_seeds(problem, seeds=3, iterations=4, jobs="ray")
    assert [run.x.tobytes() for run in there] == [run.x.tobytes() for run in here]
    with bl.use_jobs("ray"), pytest.raises(bl.InputError, match="the second task is late"):
        bl.execution.parallel_map(tasks.fails, np.zeros(3), range(4))
