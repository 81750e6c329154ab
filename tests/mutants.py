"""Mutation testing: change the source in many small ways, and see whether a test notices; needs `pip install mutmut`.

    python tests/mutants.py [bilevelrl.mdp bilevelrl_model_based.estimators …]

mutmut wants one source folder called `src`: core and plugins are copied together into `mutants/`, where it then works.
What it found is in `mutants/report.txt`: the tally, and each change that no test noticed.
docs/explanation/mutation-testing.md says how to read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import tomli_w

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "mutants"
LAWS = ("core/test_fixed_point_laws.py", "core/test_hypergradient_laws.py", "core/test_linearization.py")
SAMPLED = ("core/test_sampled_occupancy.py", "plugins/test_sobirl.py", "plugins/test_trajectory_estimators.py")
TESTS = {
    "bilevelrl.mdp.bellman": (*LAWS, "core/test_iterative.py", "core/test_bad_input.py"),
    "bilevelrl.mdp.soft_mdp": ("core/test_mdp.py", "core/test_bad_input.py", *LAWS),
    "bilevelrl.sampling.occupancies": SAMPLED,
    "bilevelrl.sampling.trajectory_gradient": SAMPLED,
    "bilevelrl_model_based.estimators": ("plugins/test_estimators.py", *LAWS),
}
"""What is mutated, and the tests that are to notice."""

UNNOTICED = ("survived", "no tests", "suspicious")


def main(names: list[str]) -> int:
    """Mutate these modules, or all; exit status 1 where mutmut could not be run."""
    modules = names or list(TESTS)
    _lay_out(modules)
    command = [sys.executable, "-m", "mutmut", "run", *(f"{module}.*" for module in modules)]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "mutants"}
    if subprocess.run(command, cwd=PLACE, env=environment, check=False).returncode:
        return 1
    lines = [line.strip() for line in _mutmut("results", "--all", "true").splitlines()]
    fates = {name: fate for name, _, fate in (line.rpartition(": ") for line in lines) if name}
    report = "\n".join(f"{count:5} {fate}" for fate, count in Counter(fates.values()).most_common())
    for name, fate in fates.items():
        if fate in UNNOTICED:
            report += f"\n\n{fate}: {name}\n{_mutmut('show', name)}"
    (PLACE / "report.txt").write_text(report + "\n", encoding="utf-8")
    print(report)
    return 0


def _lay_out(modules: list[str]) -> None:
    """Core and plugins side by side, the tests, and the configuration."""
    shutil.rmtree(PLACE, ignore_errors=True)
    for source in (ROOT / "core", ROOT / "plugins"):
        shutil.copytree(source, PLACE / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", PLACE / "tests", ignore=shutil.ignore_patterns("__pycache__", "corpus"))
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    files = {module: f"src/{module.replace('.', '/')}.py" for module in modules}
    mutmut = {
        "source_paths": ["src"],
        "only_mutate": list(files.values()),
        "pytest_add_cli_args_test_selection": sorted({f"tests/{test}" for module in modules for test in TESTS[module]}),
    }
    content = {"tool": {"pytest": tools["pytest"], "mutmut": mutmut}}
    (PLACE / "pyproject.toml").write_text(tomli_w.dumps(content), encoding="utf-8")


def _mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=PLACE, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
