"""The kit from outside: a stranger's distribution with a test file of its own, run where nothing of ours is in reach.

`tests/distributions/lighthouse` is installed into an environment of its own; its tests are copied to an empty directory
and see what is installed there, and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

import bilevelrl as bl
import child_processes
from bilevelrl.testing import LAWS
from environments import environment_with, inherited

LIGHTHOUSE = Path(__file__).parents[1] / "distributions" / "lighthouse"
KNOWN = "relabelling_states_permutes_the_answer"
# The values move on by one backup; the policy, the action values and the residual stay with the ones before.
SLIP = ("model, backup.policy, values,", "model, backup.policy, backup.values,")


def asked() -> set[str]:
    """The laws that apply to a deterministic solver which tracks the answer of a known model."""
    like_it = SimpleNamespace(name="gauss-seidel", requires=bl.mdp.SupportsModel, tags=bl.Tags("tracking"))
    of_solvers = {name: law for (kind, name), law in LAWS.items() if kind is bl.plugins.Kind.LOWER_LEVEL_SOLVER}
    return {name for name, law in of_solvers.items() if not law.why_not(like_it)}


@attrs.frozen
class Environment:
    """A virtual environment with the lighthouse in it, and a directory with its tests."""

    python: Path
    directory: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python there, away from this repository."""
        own = {name: value for name, value in inherited().items() if not name.startswith("PYTEST_")}
        settings = own | {"COLUMNS": "200", "PYTHONUTF8": "1"}
        return child_processes.run(self.python, *arguments, cwd=self.directory, env=settings)

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the stranger's tests."""
        return self.run("-m", "pytest", "-p", "no:cacheprovider", "test_lighthouse.py", *arguments)


def installed(root: Path, slip: tuple[str, str] | None = None) -> Environment:
    """An environment with the distribution installed; it sees the packages of the running one and needs no network."""
    project = shutil.copytree(LIGHTHOUSE, root / "project", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    if slip is not None:
        module = project / "bilevelrl_lighthouse" / "solver.py"
        text = module.read_text(encoding="utf-8")
        assert text.count(slip[0]) == 1
        module.write_text(text.replace(*slip), encoding="utf-8")
    python = environment_with(root, project)
    work = root / "work"
    work.mkdir()
    shutil.copy(LIGHTHOUSE / "tests" / "test_lighthouse.py", work)
    return Environment(python, work)


@pytest.fixture(scope="module")
def lighthouse(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return installed(tmp_path_factory.mktemp("lighthouse"))


@pytest.fixture(scope="module")
def results(lighthouse: Environment) -> dict[str, str]:
    """What became of each of the stranger's tests, by its id."""
    done = lighthouse.pytest("-v")
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(re.findall(r"^test_lighthouse\.py::test_laws\[(\S+)\] ([A-Z]+)", done.stdout, flags=re.MULTILINE))


def test_what_is_tested_is_what_is_installed(lighthouse: Environment) -> None:
    where = lighthouse.run("-c", "import bilevelrl_lighthouse; print(bilevelrl_lighthouse.__file__)").stdout
    assert Path(where.strip()).is_relative_to(lighthouse.python.parents[1])


def test_a_strangers_component_gets_one_test_for_each_law_with_both_names_in_its_id(results: dict[str, str]) -> None:
    assert set(results) == {f"gauss-seidel-{law}" for law in asked()}


def test_all_laws_hold_for_a_strangers_component_but_the_one_expected_to_fail(results: dict[str, str]) -> None:
    broken = {law for law, result in results.items() if result == "XFAIL"}
    assert broken == {f"gauss-seidel-{KNOWN}"}
    assert sum(result == "PASSED" for result in results.values()) == len(asked()) - 1


@pytest.mark.slow
def test_a_broken_version_fails_with_the_names_of_the_laws(tmp_path: Path) -> None:
    done = installed(tmp_path, SLIP).pytest("-q")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = set(re.findall(r"^FAILED test_lighthouse\.py::test_laws\[gauss-seidel-(\w+)\]", done.stdout, re.MULTILINE))
    assert {"action_values_are_one_backup_of_the_values", "residual_is_true"} <= failed
    assert KNOWN not in failed
    assert "law residual_is_true does not hold for lower-level solver 'gauss-seidel'" in done.stdout
    assert "smallest example found:" in done.stdout


@pytest.mark.slow
def test_the_command_line_checks_a_strangers_component(lighthouse: Environment) -> None:
    done = lighthouse.run("-m", "bilevelrl", "check", "gauss-seidel", "--examples", "4")
    # The law that the stranger's tests expect to fail: the command knows nothing of that.
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^  residual_is_true +holds ", done.stdout, flags=re.MULTILINE)
    assert re.search(rf"^  {KNOWN} +broken ", done.stdout, flags=re.MULTILINE)
    assert f"law {KNOWN} does not hold for lower-level solver 'gauss-seidel'" in done.stdout


def test_pytest_loads_nothing_of_the_kit_by_itself() -> None:
    """A user asks for the kit by importing it; an entry point would load it into every test run on the machine."""
    assert not importlib.metadata.distribution("bilevelrl").entry_points.select(group="pytest11")
