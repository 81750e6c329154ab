"""What the fuzzers found, run again; that they find what is planted; and a short run of each."""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import bilevelrl as bl
from fuzz import __main__ as command_line
from fuzz.engine import LONGEST_INPUT, explore, warm_up
from fuzz.limits import alarms, judge, limited_memory
from fuzz.targets import TARGETS, Target

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus").glob("*/*"))
OUTCOMES = json.loads((HERE / "outcomes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=TARGETS.values(), ids=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    """A target whose first use, which compiles and imports, is over."""
    made: Target = request.param
    warm_up(made)
    return made


def test_everything_in_the_corpus_has_its_outcome(target: Target) -> None:
    """Byte for byte: accepted, or refused for the same field, within the same time and memory."""
    files = [file for file in CORPUS if file.parent.name == target.name]
    assert {file.name for file in files} == OUTCOMES[target.name].keys()
    with alarms(), limited_memory():
        verdicts = {file.name: judge(target.run, file.read_bytes(), target.seconds) for file in files}
    assert {name: verdict.failure for name, verdict in verdicts.items() if verdict.failure is not None} == {}
    refused = {name: verdict.sentence.partition(" is ")[0] for name, verdict in verdicts.items()}
    assert {name: field or "accepted" for name, field in refused.items()} == OUTCOMES[target.name]


def test_short_run_finds_nothing_and_gets_past_the_first_check(target: Target) -> None:
    """Of inputs that are all refused for the same reason, a fuzzer learns nothing."""
    tally = explore(target, seed=7, executions=400)
    assert [failure.error for failure in tally.failures] == []
    assert tally.executions == 400
    assert tally.accepted >= 5
    assert tally.kinds >= 10


@settings(max_examples=25)
@given(rng=st.randoms(use_true_random=False), data=st.data())
def test_whatever_hypothesis_makes_of_it_is_accepted_or_refused(rng: random.Random, data: st.DataObject) -> None:
    """Hypothesis chooses what is mutated and how, and shrinks what fails."""
    target = data.draw(st.sampled_from([TARGETS[name] for name in ("toml", "checkpoint", "dataset", "history", "mdp")]))
    given_bytes = target.mutate(rng, target.seeds())[:LONGEST_INPUT]
    with alarms():
        assert judge(target.run, given_bytes, 10.0).failure is None


documents = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(table=st.sampled_from(["problem", "algorithm", "lower", "seed", "tolerance"]), value=documents)
def test_any_document_of_toml_is_an_experiment_or_refused(table: str, value: Any) -> None:
    import tomli_w

    try:
        text = tomli_w.dumps({table: value}).encode()
    except (ValueError, UnicodeEncodeError, TypeError):  # a surrogate, or nothing that TOML knows
        return
    with alarms():
        assert judge(TARGETS["toml"].run, text, 10.0).failure is None


# What is planted must be found


def traceback(_: bytes) -> None:
    raise KeyError("name")


def hang(_: bytes) -> None:
    until = time.process_time() + 30.0
    while time.process_time() < until:
        pass


def allocation(_: bytes) -> None:
    bytearray(200 << 20)


def warning(_: bytes) -> None:
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)


def essay(_: bytes) -> None:
    raise bl.InputError("it", "what it is", "a" * 700)


def two_lines(_: bytes) -> None:
    raise bl.InputError("it", "what it is\n", "another")


PLANTED: dict[str, tuple[Callable[[bytes], None], str]] = {
    "traceback": (traceback, "KeyError"),
    "hang": (hang, "Hang: took longer than it may"),
    "allocation": (allocation, "MemoryError"),
    "warning": (warning, "RuntimeWarning: overflow"),
    "essay": (essay, "AssertionError: not one short sentence"),
    "two lines": (two_lines, "AssertionError: not one short sentence"),
}


def planted(what: str) -> Target:
    """A target that is well-behaved but for inputs that begin with an x."""
    fault, _ = PLANTED[what]

    def run(data: bytes) -> None:
        if data.startswith(b"x"):
            fault(data)

    return Target(what, run, lambda: [b"a"], lambda rng, seeds: rng.choice((b"x", b"y")) + rng.choice(seeds), 0.1)


@pytest.mark.parametrize("what", PLANTED)
def test_planted_fault_is_found_and_written_down(what: str, tmp_path: Path) -> None:
    tally = explore(planted(what), seed=0, executions=12)
    (failure,) = tally.failures  # as often as it is met
    assert failure.error.startswith(PLANTED[what][1])
    file = failure.write(tmp_path / "failures")
    assert file.read_bytes() == failure.data
    assert PLANTED[what][1].partition(":")[0] in file.with_suffix(".txt").read_text()


def test_reasonable_allocation_is_no_fault() -> None:
    target = attrs.evolve(planted("traceback"), run=lambda _: np.zeros(1 << 20).fill(1.0))
    assert explore(target, seed=0, executions=30).failures == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python -m fuzz` with these arguments; its exit status."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fuzz", *arguments])
        return command_line.main()

    return run


def test_command_line_reports_and_exits_with_the_status(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert command("--target", "history", "--executions", "50", "--seed", "3") == 0
    assert "50 executions, 0 failures, engine plain, seed 3" in capsys.readouterr().out
    assert command("--target", "history", "--seconds", "0.2") == 0
    monkeypatch.setitem(TARGETS, "history", attrs.evolve(planted("traceback"), name="history"))
    assert command("--target", "history", "--executions", "50", "--failures", str(tmp_path)) == 1
    assert "KeyError" in capsys.readouterr().out
    (found,) = (file for file in tmp_path.iterdir() if file.suffix != ".txt")
    assert command("--target", "history", "--replay", str(found)) == 1
    (tmp_path / "harmless").write_bytes(b"y")
    assert command("--target", "history", "--replay", str(tmp_path / "harmless")) == 0


def test_replay_needs_to_know_which_reader(command: Callable[..., int]) -> None:
    with pytest.raises(SystemExit) as ended:
        command("--replay", "x")
    assert ended.value.code == 2


def test_coverage_guided_fuzzer_finds_nothing_either(command: Callable[..., int]) -> None:
    """Where atheris is installed, which nothing else needs."""
    pytest.importorskip("atheris")
    assert command("--engine", "atheris", "--target", "history", "--executions", "300") == 0
