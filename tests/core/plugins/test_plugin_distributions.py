"""Plugins as strangers write them: real projects, installed with pip into an environment of their own.

`tests/distributions` holds one good plugin and one for each way to fail. All are installed side by side, so every test
here also shows that a broken plugin leaves the others, and the framework, working.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from subprocess import DEVNULL

import attrs
import pytest

import bilevelrl as bl
import child_processes
from bilevelrl.plugins.discovery import LIMIT_VARIABLE
from bilevelrl.storage.container import unpack
from child_processes import run
from environments import environment_with, inherited

PROJECTS = Path(__file__).parents[2] / "distributions"
COMPOSED = (
    *("--lower", "anchored-value-iteration"),
    *("--estimator", "richardson-adjoint"),
    *("--upper", "sign-descent"),
    *("--set", "problem.berths=6"),
    *("--set", "estimator.sweeps=20"),
    *("--set", "upper.step_size=0.3"),
    *("--iterations", "60"),
)
LEFT_OUT = {
    "import-error": ("load", "ModuleNotFoundError: No module named 'a_module_that_nobody_installed'"),
    "misspelt-hook": ("register", "the name of a hook is 'bilevelrl_problem'; expected a known name; did you mean"),
    "wrong-signature": ("register", "Argument(s) {'configuration'} are declared in the hookimpl"),
    "raising-hook": ("hooks", "RuntimeError: the licence server does not answer"),
    "name-clash": ("components", "plugin 'model-based' (bilevelrl"),
    "twin": ("name", "the entry-point name is already used by bilevelrl-twin-one 0.1.0"),
}
DISTRIBUTIONS = {name: f"bilevelrl-{name} 0.1.0" for name in LEFT_OUT} | {"twin": "bilevelrl-twin-two 0.1.0"}


@attrs.frozen
class Environment:
    """A virtual environment."""

    python: Path
    directory: Path

    def bilevelrl(self, *arguments, status=0, **settings):
        """Run the command line there, outside of the source tree; the exit status is checked."""
        settings = inherited() | {"COLUMNS": "200", "PYTHONUTF8": "1"} | settings
        done = run(self.python, "-m", "bilevelrl", *arguments, cwd=self.directory, env=settings)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments):
        """Start the command line there, to be killed."""
        command = (self.python, "-m", "bilevelrl", *arguments)
        return child_processes.start(*command, cwd=self.directory, env=inherited(), stdout=DEVNULL, stderr=DEVNULL)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """An environment with all projects installed; it sees the packages of the running one and needs no network."""
    root = tmp_path_factory.mktemp("throw-away")
    projects = shutil.copytree(PROJECTS, root / "projects", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    python = environment_with(root, *sorted(path for path in projects.iterdir() if path.is_dir()))
    work = root / "work"
    work.mkdir()
    return Environment(python, work)


@pytest.fixture(scope="session")
def listing(environment):
    """What `bilevelrl plugins` prints: standard output and standard error."""
    done = environment.bilevelrl("plugins")
    return done.stdout, done.stderr


def paragraph(listing, name, distribution):
    """The lines of `bilevelrl plugins` about one plugin."""
    found = re.search(rf"^{re.escape(name)}  {re.escape(distribution)}\n((?:  .*\n)*)", listing, flags=re.MULTILINE)
    assert found is not None, f"no paragraph on {name} from {distribution} in\n{listing}"
    return found.group(1)


def test_every_project_is_either_the_good_one_a_twin_or_a_listed_failure():
    """A project that someone adds and no test mentions would prove nothing."""
    names = {path.name.replace("_", "-") for path in PROJECTS.iterdir() if path.is_dir()}
    assert names == {"harbour", "lighthouse", "observatory", "twin-one", "twin-two"} | set(LEFT_OUT) - {"twin"}


def test_a_good_plugin_is_listed_with_its_distribution_and_all_it_offers(listing):
    lines = paragraph(listing[0], "harbour", "bilevelrl-harbour 1.2.0").splitlines()
    assert [line.split("  ", 2)[1:] for line in map(str.rstrip, lines)] == [
        ["lower-level solver", "      anchored-value-iteration"],
        ["hyper-gradient estimator", "richardson-adjoint"],
        ["upper-level optimizer", "   sign-descent"],
        ["problem", "                 harbour-tolls"],
        ["algorithm", "               harbour"],
        ["command", "                 harbour-depth"],
    ]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_failed_plugin_is_listed_with_its_distribution_the_stage_and_the_error(listing, name):
    stage, error = LEFT_OUT[name]
    lines = paragraph(listing[0], name, DISTRIBUTIONS[name])
    assert lines.startswith(f"  left out ({stage}): ")
    assert error in lines


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_failed_plugin_is_warned_of_in_one_line(listing, name):
    stage, error = LEFT_OUT[name]
    warned = [line for line in listing[1].splitlines() if line.startswith(f"Warning: plugin {name!r} ")]
    assert len(warned) == 1
    assert f"from {DISTRIBUTIONS[name]} was left out ({stage}): " in warned[0]
    assert error in warned[0]


def test_a_plugins_command_runs_on_the_command_line(environment):
    """`bilevelrl NAME` for a name that is not one of bilevelrl's own asks the plugins."""
    answer = environment.bilevelrl("harbour-depth")
    assert answer.stdout == "12 m\n"


def test_nothing_else_is_warned_of(listing):
    assert len(listing[1].splitlines()) == len(LEFT_OUT)


def test_the_first_of_two_plugins_with_one_entry_point_name_works(listing):
    assert "twin-one" in paragraph(listing[0], "twin", "bilevelrl-twin-one 0.1.0")


def test_first_party_plugins_come_first_and_through_the_same_door(listing):
    headings = re.findall(r"^(\S+)  (\S+) \S+$", listing[0], flags=re.MULTILINE)
    distributions = [distribution for _, distribution in headings]
    first_party = distributions.count("bilevelrl")
    assert first_party >= 3
    assert distributions[:first_party] == ["bilevelrl"] * first_party


def test_components_of_all_good_plugins_are_listed_and_none_of_a_failed_one(environment):
    listed = environment.bilevelrl("list").stdout
    for name, source in {
        "anchored-value-iteration": "harbour (bilevelrl-harbour 1.2.0)",
        "richardson-adjoint": "harbour (bilevelrl-harbour 1.2.0)",
        "sign-descent": "harbour (bilevelrl-harbour 1.2.0)",
        "harbour-tolls": "harbour (bilevelrl-harbour 1.2.0)",
        "twin-one": "twin (bilevelrl-twin-one 0.1.0)",
        "soft-policy-iteration": "model-based (bilevelrl ",
    }.items():
        assert re.search(rf"^  {name} +{re.escape(source)}", listed, flags=re.MULTILINE), f"{name} is not in\n{listed}"
    # The last three have nothing wrong with them; their plugins have, and a plugin is there as a whole or not at all.
    for name in ("standstill", "bystander", "twin-two"):
        assert name not in listed


def test_a_strangers_component_is_shown_like_any_other(environment):
    page = environment.bilevelrl("show", "richardson-adjoint").stdout
    assert page.startswith(
        "richardson-adjoint — hyper-gradient estimator, from plugin harbour (bilevelrl-harbour 1.2.0)"
    )
    assert "requires: SupportsModel" in page
    assert "sweeps: int, default 10" in page


@pytest.fixture(scope="session")
def saved(environment):
    """The directory of a run that is composed of a stranger's components only, from the command line."""
    environment.bilevelrl("run", "harbour-tolls", *COMPOSED, "--out", "composed")
    return environment.directory / "composed"


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text(encoding="utf-8"))


def test_a_run_composes_a_strangers_components_and_improves_the_objective(saved):
    summary = summary_of(saved)
    assert summary["problem"] == "harbour-tolls"
    assert summary["algorithm"] == "anchored-value-iteration + richardson-adjoint + sign-descent"
    assert summary["iterations"] == 60
    before, after = summary["figures"]["objective"]
    # The goal's reward of 1 at every step would be worth 1/(1−γ) = 10; tolls can buy about seven of them.
    assert after < before - 5.0


@pytest.mark.slow
def test_the_tolls_found_agree_with_what_the_first_party_finds(environment, saved):
    """Exact components of the framework's own descend from there by less than a hundredth of what was gained."""
    environment.bilevelrl(
        *("run", "harbour-tolls", "--set", "problem.berths=6", "--iterations", "600", "--out", "exact"),
        *("--lower", "soft-policy-iteration", "--estimator", "implicit", "--upper", "gradient-descent"),
        *("--set", "upper.step_size=0.05", "--tolerance", "1e-6"),
    )
    start, exact = summary_of(environment.directory / "exact")["figures"]["objective"]
    _, found = summary_of(saved)["figures"]["objective"]
    assert exact - 1e-9 <= found <= exact + 0.01 * (start - exact)


@pytest.mark.slow
def test_a_saved_run_of_a_strangers_components_can_be_done_again(environment, saved):
    environment.bilevelrl("run", str(saved / "experiment.toml"), "--out", "again")
    again = environment.directory / "again"
    assert summary_of(again)["figures"] == summary_of(saved)["figures"]


def test_a_strangers_recipe_runs_by_its_name(environment):
    done = environment.bilevelrl(
        "run", "harbour-tolls", "--algorithm", "harbour", "--set", "sweeps=5", "--iterations", "3"
    )
    assert "harbour on harbour-tolls" in done.stdout


@pytest.mark.slow
def test_the_framework_runs_without_a_thought_for_broken_neighbours(environment):
    done = environment.bilevelrl("run", "synthetic-quadratic", "--iterations", "2", "--set", "problem.dimension=3")
    assert "m-sobirl on synthetic-quadratic" in done.stdout


def test_a_wrong_option_of_a_strangers_component_is_one_clear_line(environment):
    done = environment.bilevelrl("run", "harbour-tolls", "--algorithm", "harbour", "--set", "sweep=5", status=2)
    assert done.stderr.splitlines()[-1] == (
        "Error: an option of 'harbour' is 'sweep'; expected a known name; did you mean 'sweeps'?"
    )


def test_the_environment_variable_leaves_strangers_outside(environment, saved):
    """Neither imported nor warned of; a saved run then says what is missing."""
    first_party = [plugin.name for plugin in bl.plugins.registry().plugins if plugin.first_party]
    limit = {LIMIT_VARIABLE: ",".join(first_party)}
    done = environment.bilevelrl("plugins", **limit)
    assert done.stderr == ""
    assert "bilevelrl-" not in done.stdout
    done = environment.bilevelrl("run", str(saved / "experiment.toml"), status=2, **limit)
    assert done.stderr.startswith("Error: problem is 'harbour-tolls'; expected ")


# A kind of solution that nothing in core knows: its policy is a function of observations, its arrays are of four types.

OBSERVATORY = ("run", "synthetic-quadratic", "--algorithm", "observatory", "--seed", "5", "--checkpoint-every", "1")


def saved_state(directory):
    """What a checkpoint holds, but for the clock: history, arrays, figures."""
    document, arrays = unpack((directory / "checkpoint").read_bytes(), "it")
    rows = [json.loads(line) for line in (directory / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["seconds"]
    arrays.pop("history")
    packed = {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}
    return rows, packed, {key: document["last"]["solution"][key] for key in ("calls", "phase", "status", "residual")}


def test_a_strangers_kind_of_solution_is_killed_and_resumed_bit_for_bit(environment):
    whole, cut = environment.directory / "observed", environment.directory / "killed"
    process = environment.start(*OBSERVATORY, "--iterations", "1000000", "--out", str(cut))
    history = cut / "history.jsonl"
    child_processes.wait_until(lambda: history.exists() and history.read_bytes().count(b"\n") > 3, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = history.read_bytes().count(b"\n")
    environment.bilevelrl("resume", str(cut), "--iterations", str(reached + 10))
    environment.bilevelrl(*OBSERVATORY, "--iterations", str(reached + 10), "--out", str(whole))
    assert saved_state(cut) == saved_state(whole)
    types = {kind for name, (kind, _, _) in saved_state(cut)[1].items() if ".solution." in name}
    assert types == {"int32", "float32", "bool", "float64"}


@pytest.mark.slow
def test_a_strangers_kind_of_solution_comes_back_from_several_processes(environment):
    here, there = environment.directory / "one-process", environment.directory / "two-processes"
    seeds = (*OBSERVATORY[:4], "--iterations", "8", "--seeds", "3", "--out")
    environment.bilevelrl(*seeds, str(here))
    environment.bilevelrl(*seeds, str(there), "--jobs", "2")
    for seed in range(3):
        assert saved_state(here / f"seed-{seed}") == saved_state(there / f"seed-{seed}")


@pytest.mark.slow
def test_a_strangers_kind_of_solution_is_compared(environment):
    done = environment.bilevelrl(
        *("compare", "synthetic-quadratic", "--algorithms", "observatory,exact-gradient"),
        *("--budget", "iterations=5", "--seeds", "2", "--grid", "1.0"),
    )
    assert re.search(r"^\W*observatory\b", done.stdout, flags=re.MULTILINE), done.stdout


@pytest.mark.parametrize("name", ["feature-iteration", pytest.param("observed-adjoint", marks=pytest.mark.slow)])
def test_a_strangers_kind_of_solution_passes_the_kit(environment, name):
    done = environment.bilevelrl("check", name, "--examples", "5")
    assert re.search(r"^  saved_and_restored_continues_identically +holds ", done.stdout, flags=re.MULTILINE)


def test_building_the_projects_left_the_source_tree_alone(environment):
    left_behind = {
        path.name for path in PROJECTS.rglob("*") if path.name in {"build", "dist"} or path.suffix == ".egg-info"
    }
    assert not left_behind
