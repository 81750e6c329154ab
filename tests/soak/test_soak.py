"""The soak in its shortest form, and that it would tell of a failure."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from child_processes import HANGING, start
from slowness import slow_unless
from soak import __main__ as soak
from soak.scenarios import SCENARIOS


@pytest.mark.parametrize("name", slow_unless(lambda name: name not in ("kills", "signals", "workers"), SCENARIOS))
def test_scenario_holds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of each, as `make soak` does them for an hour."""
    monkeypatch.chdir(tmp_path)
    assert soak.main(["--only", name, "--rounds", "1" if name in ("signals", "workers") else "2", "--seed", "1"]) == 0


def fails(source: random.Random, directory: Path) -> None:
    directory.mkdir()
    (directory / "evidence").write_text(str(source.random()), encoding="utf-8")
    raise AssertionError("the numbers are others")


def test_failure_is_told_with_its_seed_kept_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SCENARIOS, "damage", fails)
    assert soak.main(["--only", "damage", "--only", "components", "--rounds", "2", "--seed", "7"]) == 1
    out = capsys.readouterr().out
    assert "damage: AssertionError: the numbers are others" in out
    assert "again: PYTHONPATH=tests python -m soak --only damage --seed 8 --rounds 1" in out
    assert re.search(r"damage +│ +2 │ +\d+ │ +2 │", out)
    assert re.search(r"components +│ +2 │ +\d+ │ +0 │", out)
    assert "4 rounds, 2 failures" in out
    evidence = [Path(f"soak-failures/damage-{seed}/run/evidence").read_text(encoding="utf-8") for seed in (7, 8)]
    assert len(set(evidence)) == 2, "each seed does something else"
    assert "the numbers are others" in Path("soak-failures/damage-7/traceback.txt").read_text(encoding="utf-8")
    soak.main(["--only", "damage", "--rounds", "1", "--seed", "7"])
    assert Path("soak-failures/damage-7/run/evidence").read_text(encoding="utf-8") == evidence[0]


def test_time_is_up_when_it_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves on by a second whenever it is looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(soak, "time", SimpleNamespace(monotonic=itertools.count(0.0).__next__))
    rounds: list[int] = []
    monkeypatch.setitem(SCENARIOS, "damage", lambda source, directory: rounds.append(1))
    assert soak.main(["--only", "damage", "--minutes", "0.5"]) == 0
    assert 1 < len(rounds) < 30


def test_ctrl_c_ends_with_the_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "soak", "--only", "components", "--minutes", "60"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    process = start(*command, cwd=tmp_path, env=environment)
    assert process.stdout is not None
    assert "Ctrl-C ends with the table" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=HANGING)
    assert process.returncode == 0, out
    assert re.search(r"[\d,]+ rounds, 0 failures", out)
