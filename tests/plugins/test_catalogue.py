"""What every problem of the catalogue has: measures, a picture, a short run, options that make another instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl

SAMPLING = ("sobirl", {"groups": 4, "truncation": 3, "samples": 500})
CATALOGUE: dict[str, tuple[str, tuple[str, dict[str, Any]], list[dict[str, Any]]]] = {
    "inverse-rl": (
        "size",
        ("m-sobirl", {}),
        [{"size": 2}, {"features": "ground"}, {"demonstrations": 3, "instance": 4}],
    ),
    "stackelberg-game": (
        "catch",
        ("m-sobirl", {}),
        [{"rows": 2, "columns": 2}, {"informed": True}, {"catch": 0.0, "fine": 0.0, "patrol_cost": 0.0}],
    ),
    "contract-design": (
        "repair",
        ("m-sobirl", {}),
        [{"conditions": 1}, {"by_condition": False, "efforts": 5, "outcomes": 2}, {"cost": 0.0, "easy": 1.0}],
    ),
    "kl-rlhf": (
        "length",
        SAMPLING,
        [{"vocabulary": 2, "length": 1}, {"preferences": "offline", "pairs": 5}, {"sharpness": 0.0, "instance": 3}],
    ),
}
CASES = [
    pytest.param(name, algorithm, options, id=f"{name} {options}", marks=[pytest.mark.slow] if options else [])
    for name, (_, algorithm, variants) in CATALOGUE.items()
    for options in [{}, *variants]
]


@pytest.mark.parametrize(("name", "algorithm", "options"), CASES)
def test_short_run_is_reported_and_drawn(
    name: str, algorithm: tuple[str, dict[str, Any]], options: dict[str, Any], tmp_path: Path
) -> None:
    problem = bl.problem(name, **options)
    run = bl.algorithm(algorithm[0], **algorithm[1]).run(problem, iterations=2)
    assert run.status is bl.Status.BUDGET_SPENT
    assert len(problem.measures(run.x, run.solution)) >= 3
    assert all(np.isfinite(row[1:]).all() for row in run.comparison())
    run.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", CATALOGUE)
def test_unknown_option_is_told_with_the_close_match(name: str) -> None:
    option = CATALOGUE[name][0]
    with pytest.raises(
        bl.validation.UnknownNameError, match=f"an option of '{name}' is '{option}e'; .* did you mean '{option}'"
    ):
        bl.problem(name, **{f"{option}e": 1})
