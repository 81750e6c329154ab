"""Virtual environments with projects in them, which see the packages of the running one and need no network."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import child_processes
from bilevelrl.plugins.discovery import LIMIT_VARIABLE

NOT_INHERITED = {LIMIT_VARIABLE, "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS"}


def inherited() -> dict[str, str]:
    """The variables of these tests, without those by which the caller would decide what is found."""
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}


def environment_with(root: Path, *projects: Path) -> Path:
    """The Python of a new environment in `root`, with these projects installed."""
    _checked(sys.executable, "-m", "venv", "--without-pip", root / "environment")
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = root / "environment" / scripts / Path(sys.executable).name
    site_packages = Path(_checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    # addsitedir, unlike a bare path, also follows the .pth file of an editable install.
    seen = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(seen)]
    (site_packages / "the_running_environment.pth").write_text("".join(lines), encoding="utf-8")
    _checked(
        *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"),
        *("--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir", *projects),
    )
    return python


def _checked(*command: object) -> str:
    """The output of a command that must succeed; the assertion shows all of it otherwise."""
    done = child_processes.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
