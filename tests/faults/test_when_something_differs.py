"""What happens when a run goes on with something else than it began with: every test is a section of the page."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import bilevelrl as bl
from bilevelrl.plugins import discovery as plugins
from faults.page import Section
from faults.runs import assert_same, assert_whole_on_disk, small
from faults.terminal import OUT, Terminal

PLUGIN = '''
import attrs
import bilevelrl as bl

@attrs.frozen
class Tidal:
    """An optimizer of somebody else's."""

    name = "tidal"
    step_size: float = 0.05

    def init(self, x):
        return bl.OptimizerState()

    def update(self, x, hyper, state):
        return x - self.step_size * hyper.gradient, bl.OptimizerState(state.steps + 1)

@bl.hookimpl
def bilevelrl_upper_level_optimizers():
    return [Tidal]
'''
RUN = ("run", "synthetic-quadratic", "--set", "problem.dimension=3", "--upper", "tidal", "--seed", "1")


def installed(version: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a version of the plugin, as an editable install would, in place of another."""
    uninstall(place)
    folder = place / f"bilevelrl-tides-{version}"
    metadata = folder / f"bilevelrl_tides-{version}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (folder / "bilevelrl_tides.py").write_text(PLUGIN, encoding="utf-8")
    text = f"Metadata-Version: 2.1\nName: bilevelrl-tides\nVersion: {version}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[bilevelrl]\ntides = bilevelrl_tides\n", encoding="utf-8")
    sys.path.insert(0, str(folder))
    forget()


def uninstall(place: Path) -> None:
    sys.path[:] = [path for path in sys.path if not path.startswith(str(place))]
    forget()


def forget() -> None:
    sys.modules.pop("bilevelrl_tides", None)
    importlib.invalidate_caches()
    plugins.registry.cache_clear()


@pytest.fixture
def place(here: Path) -> object:
    yield here
    uninstall(here)


def test_a_plugin_of_another_version_wrote_the_checkpoint(
    place: Path, terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("1.0.0", place, monkeypatch)
    terminal(*RUN, "--iterations", "3", "--out", str(OUT))
    installed("2.0.0", place, monkeypatch)
    section.check(terminal("resume", str(OUT), "--iterations", "5"))
    terminal(*RUN, "--iterations", "5", "--out", "runs/whole")
    assert_whole_on_disk(OUT, bl.load_run("runs/whole"))


def test_a_plugin_is_no_longer_installed(
    place: Path, terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("1.0.0", place, monkeypatch)
    terminal(*RUN, "--iterations", "3", "--out", str(OUT))
    uninstall(place)
    section.check(terminal("resume", str(OUT), "--iterations", "5", status=2))
    installed("1.0.0", place, monkeypatch)
    assert terminal("resume", str(OUT), "--iterations", "5") == ""


def test_the_run_is_resumed_on_another_machine(
    terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix products choose their kernel by the processor. The other machine is a word here, since this is one."""
    algorithm, problem = small()
    with monkeypatch.context() as patch:
        patch.setattr("bilevelrl.storage.environment._processor", lambda: "Elbrus 8C")
        algorithm.run(problem, iterations=3, seed=1, out=OUT)
    section.check(terminal("resume", str(OUT), "--iterations", "5"))


def test_the_problem_or_the_algorithm_differs(here: Path, section: Section) -> None:
    """Only in Python: on the command line they come from the directory."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, seed=1, out=OUT)
    other, _ = small(sweeps=7)
    harder = bl.problem("frozenlake-shaping", map_size=4, discount=0.5)
    for arguments, which in (
        ((other, problem), 0),
        ((algorithm, harder), 1),
        ((algorithm, bl.problem("synthetic-quadratic")), 2),
    ):
        with pytest.raises(bl.InputError) as caught:
            arguments[0].resume(arguments[1], OUT)
        section.check(f"bilevelrl.InputError: {caught.value}", which)
    assert_same(bl.load_run(OUT), algorithm.run(problem, iterations=3, seed=1))
