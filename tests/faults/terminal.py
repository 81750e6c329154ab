"""The command line as a user meets it: what it says, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import child_processes
from bilevelrl.cli import main
from bilevelrl.plugins.discovery import LIMIT_VARIABLE

OUT = Path("runs/long")
PROGRESS = re.compile(r"iteration +[\d,]+  objective .*\n")
RUN = ("run", "frozenlake-shaping", "--set", "problem.map_size=4", "--set", "step_size=0.05", "--seed", "1")
ENDLESS = ("--iterations", "1000000")


def told(output: str) -> str:
    """Standard error without the lines of progress, which a terminal shows as a bar."""
    return PROGRESS.sub("", output)


class Terminal:
    """Runs the command line in this process; a traceback is printed, as the interpreter would."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = ""

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What came on standard error, without the lines of progress; checks the exit status."""
        self._capture.readouterr()
        try:
            main(arguments)
        except SystemExit as ended:
            came = ended.code or 0
        except Exception:
            traceback.print_exc()
            came = 1
        output = self._capture.readouterr()
        self.out = output.out
        assert came == status, output.err
        return told(output.err)


def start(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != LIMIT_VARIABLE}
    command = [*prefix, sys.executable, "-m", "bilevelrl", *arguments]
    return child_processes.start(*command, env=inherited | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120"})


def newest(directory: Path) -> int:
    """When the newest checkpoint was written, in nanoseconds; 0 where there is none at the moment."""
    try:
        return (directory / "checkpoint").stat().st_mtime_ns
    except FileNotFoundError:  # also between the two renames
        return 0
