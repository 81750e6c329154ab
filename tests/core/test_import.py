"""`import bilevelrl` stays light, and says what it offers."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pickle
import pydoc
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bilevelrl as bl
from bilevelrl.cli import COMMANDS

HEAVY = (
    *("torch", "jax", "matplotlib", "gymnasium", "numba", "hypothesis", "pytest", "rich", "cattrs", "pandas"),
    *("tensorboard", "dask", "distributed", "ray", "joblib", "cloudpickle", "threadpoolctl", "multiprocessing"),
    *("scipy.linalg", "scipy.optimize", "concurrent.futures.process"),
)


def loaded(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after the program, since this one has loaded half of them."""
    program = f"import json, sys\n{program}\nprint(json.dumps(list(sys.modules)))"
    # Not watched where coverage is measured, which loads modules of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_importing_bilevelrl_loads_nothing_of_it_before_a_name_is_used() -> None:
    """Not even NumPy: whoever asks for the version, or for help, waits for neither."""
    modules = loaded("import bilevelrl; bilevelrl.__version__; dir(bilevelrl)")
    assert not modules & {*HEAVY, "numpy", "scipy", "attrs"}
    assert {name for name in modules if name.startswith("bilevelrl.")} == set()


def test_the_help_of_the_command_line_loads_no_array_library() -> None:
    program = "import bilevelrl.cli as c\ntry: c.main(['--help'])\nexcept SystemExit as end: assert end.code == 0"
    assert not loaded(program) & {*HEAVY, "numpy", "scipy"}


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    modules = loaded("import bilevelrl; bilevelrl.validation.is_real")
    assert "bilevelrl.validation.errors" in modules
    assert "bilevelrl.outer_loop" not in modules


def test_all_public_names_together_load_no_heavy_library() -> None:
    assert not loaded("from bilevelrl import *") & set(HEAVY)


def test_loading_all_first_party_plugins_loads_none_either() -> None:
    """The registry imports the plugins; their heavy libraries wait for the call that needs them."""
    assert not loaded("import bilevelrl; bilevelrl.plugins.registry()") & set(HEAVY)


@pytest.mark.parametrize("name", bl.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(bl, name) is not None


PACKAGES = tuple(name for name in bl.__all__ if hasattr(getattr(bl, name), "__path__"))


@pytest.mark.parametrize("package", [bl, *(getattr(bl, name) for name in PACKAGES)], ids=lambda each: each.__name__)
def test_the_names_are_those_that_type_checkers_read(package: types.ModuleType) -> None:
    """One list: `__init__.pyi` serves mypy and the import alike; each name is re-exported, `Name as Name`."""
    path = Path(str(package.__file__)).with_suffix(".pyi")
    stub = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    aliases = [alias for node in imports for alias in node.names]
    assert all(alias.asname == alias.name for alias in aliases)
    assert sorted(alias.name for alias in aliases) == sorted({*package.__all__} - {"__version__"})
    for node in imports:
        if node.module is None:
            continue
        home = importlib.import_module(f"{package.__name__}.{node.module}")
        for alias in node.names:
            assert getattr(package, alias.name) is getattr(home, alias.name)


def test_a_module_does_not_take_the_place_of_a_name() -> None:
    """A submodule that is imported becomes an attribute of its package: none may have the name of something public."""
    program = (
        "import types, bilevelrl.sampling, bilevelrl.sampling.hypergradient\n"
        "package = bilevelrl.sampling\n"
        "assert not [n for n in package.__all__ if isinstance(getattr(package, n), types.ModuleType)]"
    )
    assert "bilevelrl.sampling.hypergradient" in loaded(program)


def test_dir_star_pickle_and_pydoc_know_the_names() -> None:
    assert set(bl.__all__) <= set(dir(bl))
    names: dict[str, object] = {}
    exec("from bilevelrl import *", names)
    assert set(bl.__all__) <= set(names)
    assert pickle.loads(pickle.dumps(bl.Cost(samples=3))) == bl.Cost(samples=3)
    page = pydoc.plain(pydoc.render_doc(bl))
    assert "class Algorithm" in page
    assert "value_and_gradient(" in page


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Algoritm"):
        _ = bl.Algoritm
    with pytest.raises(ImportError, match="Algoritm"):
        exec("from bilevelrl import Algoritm")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_under_its_name(name: str) -> None:
    """The command line's table of commands stands for modules that it has not imported."""
    command = getattr(importlib.import_module(f"bilevelrl.cli.{COMMANDS[name][0]}"), f"{name}_command")
    assert command.name == name


def test_the_three_protocols_and_what_they_exchange_are_public() -> None:
    wanted = {
        "LowerLevelSolver",
        "HyperGradientEstimator",
        "UpperLevelOptimizer",
        "LowerLevelSolution",
        "HyperGradient",
    }
    assert wanted | {"OptimizerState", "Status", "Cost", "SoftMDP", "BilevelProblem", "Algorithm"} <= set(bl.__all__)
