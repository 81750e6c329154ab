"""An experiment is tables of names and options: read strictly, composed as told, written so that it reads back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl

SMALL = {"name": "synthetic-quadratic", "states": 3, "actions": 2, "dimension": 4}


def composed(**tables: Any) -> tuple[bl.BilevelProblem, bl.Algorithm]:
    return bl.compose(bl.storage.Experiment.parse({"problem": SMALL} | tables))


def test_recipe_alone_is_the_recipe() -> None:
    problem, algorithm = composed(algorithm={"name": "m-sobirl", "sweeps": 3})
    assert (problem.name, problem.dimension) == ("synthetic-quadratic", 4)
    assert algorithm == bl.algorithm("m-sobirl", sweeps=3)


def test_table_of_a_role_changes_options_of_the_recipes_component() -> None:
    _, algorithm = composed(algorithm={"name": "m-sobirl", "sweeps": 3}, upper={"step_size": 0.5})
    recipe = bl.algorithm("m-sobirl", sweeps=3)
    assert algorithm == attrs.evolve(recipe, upper=bl.upper_level_optimizer("gradient-descent", step_size=0.5))
    assert algorithm.name == "m-sobirl"


def test_table_of_a_role_with_a_name_replaces_the_component_and_the_algorithm_is_called_by_its_parts() -> None:
    _, algorithm = composed(algorithm={"name": "m-sobirl"}, estimator={"name": "implicit"})
    assert algorithm.estimator == bl.hypergradient_estimator("implicit")
    assert algorithm.lower == bl.algorithm("m-sobirl").lower
    assert algorithm.name == "soft-value-iteration + implicit + gradient-descent"


def test_three_roles_need_no_recipe() -> None:
    _, algorithm = composed(
        lower={"name": "soft-policy-iteration", "tolerance": 1e-6},
        estimator={"name": "implicit"},
        upper={"name": "adam"},
    )
    assert algorithm.lower == bl.lower_level_solver("soft-policy-iteration", tolerance=1e-6)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({}, "lower.name is missing; expected the name of an algorithm, or of all three components"),
        ({"lower": {"name": "soft-value-iteration"}}, "estimator.name is missing; expected the name of an algorithm"),
        ({"algorithm": {"sweeps": 3}}, "option 'sweeps' of the algorithm is given; expected an algorithm's name too"),
        ({"algorithm": {"name": "m-sobirl"}, "problem": {}}, "problem.name is missing; expected the name of a problem"),
    ],
    ids=["nothing", "one role of three", "options of no algorithm", "no problem"],
)
def test_what_is_missing_is_named(tables: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bl.InputError, match=re.escape(sentence)):
        composed(**tables)


@pytest.mark.parametrize("key", ["iterations", "seed"])
@pytest.mark.parametrize("value", [True, 3.0, "3", [3], {"a": 1}, None], ids=repr)
def test_whole_numbers_are_not_made_of_other_types(key: str, value: object) -> None:
    """A flag, a float or a string where an integer is wanted is a mistake in the file, not a number."""
    with pytest.raises(bl.InputError, match=re.escape(f"{key} is {value!r}; expected an integer of at least 0")):
        bl.storage.Experiment.parse({key: value})


def test_tolerance_may_be_written_as_an_integer() -> None:
    tolerance = bl.storage.Experiment.parse({"tolerance": 1}).tolerance
    assert (tolerance, type(tolerance)) == (1.0, float)


def test_written_experiment_reads_back_as_it_was(tmp_path: Path) -> None:
    """Numbers keep all their digits, strings their quotes and umlauts, nested lists their nesting."""
    tables = {
        "problem": {"name": "p", "number": 0.1 + 0.2, "whole": 10**12, "flag": False, "word": 'ü "quoted" \\ \n'},
        "upper": {"name": "u", "list": [[1.5, 2.5], [3.5]], "table": {"deep": [True]}},
    }
    written = bl.storage.Experiment(tables, iterations=7, seed=2**40, tolerance=1e-300)
    written.write(tmp_path / "experiment.toml")
    assert bl.storage.Experiment.read(tmp_path / "experiment.toml") == written


def test_arrays_and_tuples_are_written_as_lists(tmp_path: Path) -> None:
    bl.storage.Experiment(
        {"upper": {"name": "u", "array": np.array([1.0, 2.0]), "pair": (1, 2), "one": np.float64(0.5)}}
    ).write(tmp_path / "experiment.toml")
    options = bl.storage.Experiment.read(tmp_path / "experiment.toml").tables["upper"]
    assert options == {"name": "u", "array": [1.0, 2.0], "pair": [1, 2], "one": 0.5}


@pytest.mark.parametrize(
    "algorithm",
    [
        bl.algorithm("m-sobirl", step_size=0.3, sweeps=2),
        bl.Algorithm(
            bl.lower_level_solver("soft-value-iteration", tolerance=1e-5),
            bl.hypergradient_estimator("implicit"),
            bl.upper_level_optimizer("adam", first_decay=0.5),
        ),
    ],
    ids=["recipe", "composed in Python"],
)
def test_described_run_composes_to_the_same_components(algorithm: bl.Algorithm) -> None:
    problem = bl.problem(**SMALL)
    again, same = bl.compose(bl.storage.Experiment.describe(problem, algorithm))
    assert (same.lower, same.estimator, same.upper) == (algorithm.lower, algorithm.estimator, algorithm.upper)
    assert (again.name, again.configuration) == (problem.name, problem.configuration)


def test_problem_that_was_composed_in_python_cannot_be_found_by_its_name() -> None:
    """Better an unknown name than another problem that happens to have the same options."""
    registered = bl.problem(**SMALL)
    own = bl.BilevelProblem(registered.lower, registered.objective, name="my own")
    described = bl.storage.Experiment.describe(own, bl.algorithm("m-sobirl"))
    with pytest.raises(bl.validation.UnknownNameError, match="problem is 'my own'; expected one of"):
        bl.compose(described)
