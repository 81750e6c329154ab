"""What SECURITY.md promises of files from elsewhere: nothing executed, nothing written outside, no size believed."""

from __future__ import annotations

import ast
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from safetensors.numpy import save_file

import bilevelrl as bl
from bilevelrl.cli import main
from bilevelrl.storage import files, run_directory
from bilevelrl.storage.files import append, open_own, read, write_atomically
from bilevelrl.validation import memory

ROOT = Path(__file__).parents[3]
PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)
ALGORITHM = bl.algorithm("m-sobirl")

# No code from data

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "code", "runpy", "imp"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "import_module",
    "execfile",
    "literal_eval",
    "system",
    "popen",
}
ALLOWED = {
    ("core/bilevelrl/execution/pickling.py", "pickle"): "between a run and its own workers",
    ("core/bilevelrl/execution/pickling.py", "cloudpickle"): "the same",
    ("core/bilevelrl/execution/dispatch.py", "joblib"): "runs the tasks; its `load` is not used",
    ("core/bilevelrl/execution/backends.py", "joblib"): "the same",
    (
        "core/bilevelrl/execution/shared_values.py",
        "joblib",
    ): "its tracker removes a killed process's files",
    ("core/bilevelrl/cli/__init__.py", "import_module"): "of the commands, by a table in the source",
    ("core/bilevelrl/__init__.py", "pickle"): "copyreg.pickle: this package itself is sent by its name",
    ("core/bilevelrl/__init__.py", "import_module"): "of this package itself, where a process is sent a function of it",
}
"""What a file of the source may use all the same, and why."""


def uses(source: str) -> Iterator[str]:
    """Every forbidden module and call in a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "").split(".")[0], *(alias.name for alias in node.names))
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            # `re.compile` and `re.Pattern.compile` make no code.
            if not (name == "compile" and isinstance(called, ast.Attribute)):
                yield name
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield "allow_pickle"
            if (
                name == "load"
                and isinstance(called, ast.Attribute)
                and not any(keyword.arg == "allow_pickle" for keyword in node.keywords)
            ):
                owner = called.value
                if isinstance(owner, ast.Name) and owner.id in ("np", "numpy"):
                    yield "allow_pickle"


def forbidden_in(source: str) -> set[str]:
    return set(uses(source)) & (FORBIDDEN_MODULES | FORBIDDEN_CALLS | {"allow_pickle"})


def test_no_source_file_makes_code_of_data() -> None:
    """No eval, exec, pickle, marshal, nor an import by name, but for what ALLOWED names with its reason."""
    found = {
        (file.relative_to(ROOT).as_posix(), name)
        for root in ("core", "plugins")
        for file in (ROOT / root).rglob("*.py")
        for name in forbidden_in(file.read_text(encoding="utf-8"))
    }
    assert found - ALLOWED.keys() == set()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import marshal as m", "marshal"),
        ("eval(text)", "eval"),
        ("builtins.exec(text)", "exec"),
        ("importlib.import_module(name)", "import_module"),
        ("from importlib import import_module", "import_module"),
        ("__import__(name)", "__import__"),
        ("np.load(file)", "allow_pickle"),
        ("np.load(file, allow_pickle=True)", "allow_pickle"),
        ("np.load(file, allow_pickle=flag)", "allow_pickle"),
        ("compile(text, 'x', 'exec')", "compile"),
        ("os.system(text)", "system"),
    ],
)
def test_the_walk_sees_each_way(source: str, name: str) -> None:
    """A walk that sees nothing would let everything pass."""
    assert forbidden_in(source) == {name}


@pytest.mark.parametrize("source", ["re.compile('a')", "np.load(file, allow_pickle=False)", "json.load(file)"])
def test_the_walk_leaves_the_harmless_alone(source: str) -> None:
    assert forbidden_in(source) == set()


@pytest.mark.parametrize(
    "name", ["os.system", "bilevelrl_model_based.solvers:SoftValueIteration", "__main__", "../m-sobirl"]
)
def test_configuration_names_registered_components_only(tmp_path: Path, name: str) -> None:
    for table in ("problem", "algorithm", "lower"):
        file = tmp_path / f"{table}.toml"
        tables = {"problem": "synthetic-quadratic", "algorithm": "m-sobirl"} | {table: name}
        file.write_text("".join(f'[{key}]\nname = "{named}"\n' for key, named in tables.items()))
        experiment = bl.storage.Experiment.read(file)
        with pytest.raises(bl.InputError, match=r"expected (a known name|one of)"):
            bl.compose(experiment)


# Nothing outside

LINKS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic": lambda link, target: link.symlink_to(target),
    "hard": lambda link, target: os.link(target, link),
}
WRITTEN = (
    "experiment.toml",
    "history.jsonl",
    "environment.json",
    "summary.json",
    "state.safetensors",
    "checkpoint",
    "run.png",
)


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A file of the user's, outside of any run directory."""
    file = tmp_path / "treasure"
    file.write_bytes(b"mine")
    return file


@pytest.mark.parametrize("kind", LINKS)
def test_nothing_is_written_through_a_link_in_a_run_directory(tmp_path: Path, treasure: Path, kind: str) -> None:
    """Whatever file of the directory is a link, and the partial files beside them too."""
    out = tmp_path / "run"
    out.mkdir()
    for name in WRITTEN:
        for place in (out / name, out / f"{name}.partial"):
            if "checkpoint" not in place.name:  # a checkpoint would be one that the run must not write over
                LINKS[kind](place, treasure)
    LINKS[kind](out / "checkpoint.partial", treasure)
    run = ALGORITHM.run(PROBLEM, iterations=2, out=out, checkpoint_every=1)
    run.plot(out / "run.png")
    run.save(out)
    assert treasure.read_bytes() == b"mine"
    assert not any((out / name).is_symlink() for name in WRITTEN)
    assert bl.load_run(out).last.iteration == 2


@pytest.mark.parametrize("kind", LINKS)
def test_nothing_is_written_through_a_link_when_a_run_goes_on(tmp_path: Path, treasure: Path, kind: str) -> None:
    """As in a run directory that was packed by somebody else."""
    out = tmp_path / "run"
    ALGORITHM.run(PROBLEM, iterations=2, out=out)
    for name in ("history.jsonl", "summary.json", "state.safetensors", "checkpoint.previous", "history.jsonl.partial"):
        (out / name).unlink(missing_ok=True)
        LINKS[kind](out / name, treasure)
    run = ALGORITHM.resume(PROBLEM, out, iterations=4, checkpoint_every=1)
    assert run.last.iteration == 4
    assert treasure.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", LINKS)
def test_lock_that_is_a_link_is_refused(tmp_path: Path, treasure: Path, kind: str) -> None:
    """The number of the process is written into it: into somebody's file, it would be."""
    out = tmp_path / "run"
    out.mkdir()
    LINKS[kind](out / "lock", treasure)
    with pytest.raises(bl.InputError, match=r"the directory '.*run' is not writable \(.*lock"):
        ALGORITHM.run(PROBLEM, iterations=1, out=out)
    assert treasure.read_bytes() == b"mine"


def test_history_is_not_appended_to_a_link(tmp_path: Path, treasure: Path) -> None:
    link = tmp_path / "history.jsonl"
    link.symlink_to(treasure)
    with pytest.raises(OSError, match=r"history\.jsonl"):
        append(link, b"more")
    assert treasure.read_bytes() == b"mine"
    append(treasure, b", too")
    assert treasure.read_bytes() == b"mine, too"


def test_comparison_is_not_written_through_links(tmp_path: Path, treasure: Path) -> None:
    comparison = bl.compare({"name": "synthetic-quadratic"}, ["m-sobirl"], seeds=1, budget="iterations=2", grid=[1.0])
    names = ("table.md", "checkpoints.csv", "runs.csv", "summary.json", "comparison.png")
    for name in names:
        (tmp_path / name).symlink_to(treasure)
    comparison.save(tmp_path)
    comparison.plot(tmp_path / "comparison.png")
    assert treasure.read_bytes() == b"mine"
    assert not any((tmp_path / name).is_symlink() for name in names)


def test_names_in_a_file_of_arrays_are_names_only(tmp_path: Path) -> None:
    """An array `../x` is not a file to be made; only the five arrays' names are looked for."""
    more = dict.fromkeys(("../outside", "/etc/outside"), np.zeros(1))
    save_file(dataset().arrays() | more, tmp_path / "pairs.safetensors")
    assert bl.storage.read_preferences(tmp_path / "pairs.safetensors").labels.tolist() == [1.0, 0.0]
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.safetensors"]


# Sizes


def dataset() -> bl.objectives.PreferenceDataset:
    steps = np.array([[0, 1, 2], [2, 1, 0]])
    paths = bl.sampling.Trajectories(steps, np.array([[0, 1], [1, 0]]), np.zeros((2, 2)))
    return bl.objectives.PreferenceDataset(paths, paths, [1.0, 0.0])


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to: who opens it for reading waits for ever."""
    file = tmp_path / "pipe"
    os.mkfifo(file)
    return file


READERS: dict[str, Callable[[Path], Any]] = {
    "experiment": bl.storage.Experiment.read,
    "dataset": bl.storage.read_preferences,
    "history": bl.storage.History.read,
}


@pytest.mark.parametrize("reader", READERS)
def test_pipe_or_device_or_directory_is_one_sentence(pipe: Path, tmp_path: Path, reader: str) -> None:
    """A device such as /dev/zero has no end, and a pipe no beginning."""
    for path, reason in (
        (pipe, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(bl.InputError, match=reason):
            READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", ["missing", "a\0b"])
def test_file_that_is_not_there_is_one_sentence(tmp_path: Path, reader: str, path: str) -> None:
    with pytest.raises(bl.InputError, match="unreadable"):
        READERS[reader](tmp_path / path)


@pytest.mark.parametrize("name", ["checkpoint", "experiment.toml", "summary.json", "environment.json"])
def test_pipe_in_a_run_directory_is_one_sentence_or_nothing(tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    ALGORITHM.run(PROBLEM, iterations=2, out=out)
    (out / name).unlink()
    os.mkfifo(out / name)
    if name in ("checkpoint", "experiment.toml"):
        with pytest.raises(bl.InputError, match="not a regular file"):
            bl.load_run(out)
    else:
        assert bl.load_run(out).last.iteration == 2


def test_file_of_a_terabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file takes no room on the disk, and all of its size in memory."""
    file = tmp_path / "large"
    with file.open("wb") as handle:
        handle.truncate(1 << 40)
    tracemalloc.start()
    for reader in READERS.values():
        with pytest.raises(bl.InputError, match=r"unreadable \(larger than"):
            reader(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_checkpoint_of_a_terabyte_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ALGORITHM.run(PROBLEM, iterations=2, out=out)
    with (out / "checkpoint").open("r+b") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(bl.InputError, match=r"checkpoint is unreadable \(larger than .*\)"):
        bl.load_run(out)


def packed(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def entry(shape: list[Any], dtype: str = "I64", end: int = 8) -> dict[str, Any]:
    return {"first_observations": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


BOMBS = {
    "a shape of a terabyte": (packed(entry([10**6, 10**6]), bytes(8)), "not a safetensors file, or damaged"),
    "a shape beyond all integers": (packed(entry([10**40]), bytes(8)), "not a safetensors file"),
    "a negative shape": (packed(entry([-1, 8]), bytes(8)), "not a safetensors file"),
    "an array that ends beyond the file": (packed(entry([10**9], end=8 * 10**9), bytes(8)), "not a safetensors file"),
    "an array of a type that is none": (packed(entry([1], "OBJECT"), bytes(8)), "not a safetensors file"),
    "a header that is an expression": (packed(b"__import__('os').abort()"), "not a safetensors file"),
    "a header nested deeply": (packed(b"[" * 100_000), "not a safetensors file"),
    "a header longer than the file": ((2**62).to_bytes(8, "little") + b"{}", "not a safetensors file"),
    "a pickle": (b"\x80\x04cos\nsystem\n", "not a safetensors file"),
    "without its arrays": (
        packed({"labels": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        "without an array 'first_observations'",
    ),
    "nothing": (b"", "not a safetensors file"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_file_of_arrays_gets_no_more_memory_than_it_has_bytes(tmp_path: Path, what: str) -> None:
    data, sentence = BOMBS[what]
    (tmp_path / "pairs.safetensors").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(bl.InputError, match=sentence):
        bl.storage.read_preferences(tmp_path / "pairs.safetensors")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_dataset_is_read_as_it_was_written(tmp_path: Path) -> None:
    bl.storage.write_preferences(tmp_path / "pairs.safetensors", dataset())
    found = bl.storage.read_preferences(tmp_path / "pairs.safetensors")
    for name in ("first", "second"):
        assert (getattr(found, name).observations == getattr(dataset(), name).observations).all()
        assert (getattr(found, name).actions == getattr(dataset(), name).actions).all()
    assert (found.labels == dataset().labels).all()


@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i4", "u8"])
def test_dataset_may_have_integers_of_any_width(tmp_path: Path, kind: str) -> None:
    """Indices of 8 bits would overflow where they are computed with; they are widened."""
    steps = np.array([[100, 1, 120]])
    arrays = {f"{name}_{part}": steps[:, :n].astype(kind)
              for name in ("first", "second") for part, n in (("observations", 3), ("actions", 2))}  # fmt: skip
    save_file({**arrays, "labels": np.array([0.5])}, tmp_path / "pairs.safetensors")
    found = bl.storage.read_preferences(tmp_path / "pairs.safetensors")
    assert found.first.observations.dtype == found.first.actions.dtype == np.int64
    assert found.first.observations.tolist() == steps.tolist()
    found.check_table((121, 101))
    with pytest.raises(bl.InputError, match=r"expected at least \(121, 101\)"):
        found.check_table((120, 101))


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"first_observations": [[0, -1, 2]]}, r"first\.observations is -1 and 2; expected indices"),
    "beyond all tables": ({"first_actions": [[0, 2**40]]}, r"first\.actions is 0 and 1099511627776; expected indices"),
    "a vector": ({"first_observations": [0, 1, 2]}, r"first\.observations is \(3,\); expected \(N, H, …\)"),
    "no trajectory": (
        {"first_observations": np.zeros((0, 3), int)},
        r"is \(0, 3\); expected \(N, H, …\), none of them zero",
    ),
    "one state short": ({"first_observations": [[0, 1]]}, r"first\.observations is \(1, 2\); expected \(1, 3, …\)"),
    "labels outside": ({"labels": [1.5]}, r"preferences\[0\] is 1\.5; expected a number in \[0, 1\]"),
    "labels NaN": ({"labels": [np.nan]}, r"preferences\[0\] is nan"),
    "more labels than pairs": ({"labels": [0.5, 0.5]}, r"labels is \(2,\); expected \(1,\)"),
}


def test_continuous_actions_may_be_saved_and_do_not_fit_a_table(tmp_path: Path) -> None:
    """Rewards that are functions of observations take them; a table of rewards has no place for them."""
    continuous = {"second_actions": np.array([[0.5, 1.0], [0.0, 1.0]])}
    pairs = bl.objectives.PreferenceDataset.of(dataset().arrays() | continuous)
    bl.storage.write_preferences(tmp_path / "pairs.safetensors", pairs)
    found = bl.storage.read_preferences(tmp_path / "pairs.safetensors")
    with pytest.raises(bl.InputError, match="the actions of a PreferenceDataset is an array of float64"):
        found.check_table((9, 9))


@pytest.mark.parametrize("what", MISTAKES)
def test_dataset_whose_arrays_do_not_fit_is_one_sentence(tmp_path: Path, what: str) -> None:
    changes, sentence = MISTAKES[what]
    arrays = {"labels": [0.5]}
    for name in ("first", "second"):
        arrays |= {f"{name}_observations": [[0, 1, 2]], f"{name}_actions": [[0, 1]]}
    given = {name: np.asarray(array) for name, array in (arrays | changes).items()}
    save_file(given, tmp_path / "pairs.safetensors")
    with pytest.raises(bl.InputError, match=sentence):
        bl.storage.read_preferences(tmp_path / "pairs.safetensors")


def test_dataset_of_another_world_is_one_sentence() -> None:
    """Its third state has no reward in a world of two."""
    objective = bl.objectives.PreferenceDatasetObjective(bl.parametric.TabularReward(np.zeros((2, 2))), dataset())
    with pytest.raises(bl.InputError, match=r"is \(2, 2\); expected at least \(3, 2\), for what the dataset visits"):
        objective.value_and_gradients(np.zeros(4), np.full((2, 2), 0.5))


# Histories


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = ALGORITHM.run(PROBLEM, iterations=3).history
    (tmp_path / "history.jsonl").write_text(history.lines())
    found = bl.storage.History.read(tmp_path / "history.jsonl")
    assert (found.lines(), found.columns) == (history.lines(), history.columns)
    assert found.table().tobytes() == history.table().tobytes()


def test_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    """At every place where a crash, or a look at a run that goes on, may have cut it."""
    whole = ALGORITHM.run(PROBLEM, iterations=2).history.lines().encode()
    for length in range(len(whole) + 1):
        (tmp_path / "history.jsonl").write_bytes(whole[:length])
        assert len(bl.storage.History.read(tmp_path / "history.jsonl")) == whole[:length].count(b"\n")


def test_columns_of_a_history_are_open(tmp_path: Path) -> None:
    """A unit of cost that no one here knows is a column; what a row does not have is NaN."""
    text = '{"iteration": 0, "objective": 1.5}\n{"iteration": 1, "objective": "-Infinity", "gradient_steps": 7}\n'
    (tmp_path / "history.jsonl").write_text(text)
    history = bl.storage.History.read(tmp_path / "history.jsonl")
    assert history.columns[-1] == "gradient_steps"
    np.testing.assert_array_equal(history["gradient_steps"], [np.nan, 7.0])
    np.testing.assert_array_equal(history["objective"], [1.5, -np.inf])
    np.testing.assert_array_equal(history["seconds"], [np.nan, np.nan])
    assert bl.storage.History.decode(history.lines().encode(), "again").lines() == history.lines()


CELLS: dict[str, tuple[str, Any, str]] = {
    "a word": ("objective", "many", r"objective in line 2 of .* is 'many'; expected a number"),
    "a flag": ("objective", True, "objective in line 2 of .* is True; expected a number or null"),
    "a list": ("objective", [1.0], "expected a number or null"),
    "beyond floats": ("objective", 10**400, "expected a number within the range of float64"),
    "a fraction of a count": ("backups", 0.5, r"backups in line 2 .* is 0\.5; expected a whole number of at least 0"),
    "a negative count": ("backups", -1, "is -1; expected a whole number of at least 0"),
    "a count beyond integers": ("backups", 2**63, "expected a whole number of at least 0"),
    "an infinite count": ("backups", "Infinity", "expected a whole number of at least 0"),
    "a unit of words": ("tea", "cups", "tea in line 2 of .* is 'cups'; expected a number or null"),
    "a unit of control characters": ("\x1b[2J", 1, r"a column in line 2 of .* is '\\x1b\[2J'; expected the name"),
    "a unit of a long name": ("a" * 200, 1, "a column in line 2 of .*; expected the name of a figure"),
    "another iteration": ("iteration", 7, "iteration in line 2 of .* is 7; expected 1, a line each"),
    "control characters": ("objective", "\x1b[2J", r"is '\\x1b\[2J'; expected a number"),
}


@pytest.mark.parametrize("what", CELLS)
def test_cell_that_is_no_figure_is_one_sentence(tmp_path: Path, what: str) -> None:
    column, cell, sentence = CELLS[what]
    rows = [json.loads(line) for line in ALGORITHM.run(PROBLEM, iterations=2).history.lines().splitlines()]
    rows[1][column] = cell
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(bl.InputError, match=sentence) as caught:
        bl.storage.History.read(tmp_path / "history.jsonl")
    assert "\x1b" not in str(caught.value)


LINES = (
    "iteration,loss",
    "[0, 1.5]",
    "3",
    "{",
    '{"iteration": 0}}',
    "[" * 10_000,
    '{"seconds": ' + "9" * 5000 + "}",
    "\xff",
)


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_line_of_something_else_is_no_history(tmp_path: Path, line: str) -> None:
    (tmp_path / "history.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(bl.InputError, match=r"line 1 of .* is not a JSON object; expected a row of a history"):
        bl.storage.History.read(tmp_path / "history.jsonl")


def test_history_of_a_new_unit_in_every_row_is_refused(tmp_path: Path) -> None:
    """Its table would be as large as the square of its file."""
    lines = (json.dumps({"iteration": row, f"unit {row}": 1}) for row in range(1000))
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(bl.InputError, match="is the 257th unit of cost; expected at most 256"):
        bl.storage.History.read(tmp_path / "history.jsonl")


# Options that size something

TOO_LARGE = {
    "synthetic-quadratic states": ("synthetic-quadratic", {"states": 1_000_000}),
    "synthetic-quadratic dimension": ("synthetic-quadratic", {"dimension": 10**7}),
    "inverse-rl size": ("inverse-rl", {"size": 1000}),
    "inverse-rl demonstrations": ("inverse-rl", {"demonstrations": 10**12}),
    "inverse-rl horizon": ("inverse-rl", {"demonstrations": 1, "horizon": 10**13}),
    "gridworld-preferences size": ("gridworld-preferences", {"size": 1000}),
    "kl-rlhf vocabulary": ("kl-rlhf", {"vocabulary": 10**6}),
    "kl-rlhf length": ("kl-rlhf", {"length": 10**12}),
    "kl-rlhf pairs": ("kl-rlhf", {"preferences": "offline", "pairs": 10**12}),
    "stackelberg-game rows": ("stackelberg-game", {"rows": 1000}),
    "stackelberg-game columns": ("stackelberg-game", {"columns": 10**6}),
    "contract-design conditions": ("contract-design", {"conditions": 10**6}),
    "contract-design efforts": ("contract-design", {"efforts": 10**12}),
    "contract-design outcomes": ("contract-design", {"outcomes": 10**9}),
    "frozenlake-shaping horizon": ("frozenlake-shaping", {"map_size": 4, "horizon": 10**12}),
    "more than any number": ("synthetic-quadratic", {"states": 10**5000}),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_option_beyond_memory_is_one_sentence_before_anything_is_allocated(what: str) -> None:
    name, options = TOO_LARGE[what]
    tracemalloc.start()
    with pytest.raises(
        bl.InputError, match=r"expected (one that fits into the .* of memory here|an integer)"
    ) as caught:
        bl.problem(name, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert "\n" not in str(caught.value)


RUN_TOO_LARGE = {
    "groups": ("gridworld-preferences", {}, "sobirl", {"groups": 10**12}),
    "truncation without restarts": ("gridworld-preferences", {}, "sobirl", {"truncation": 10**12, "restarts": False}),
    "horizon": ("gridworld-preferences", {"horizon": 10**12}, "sobirl", {}),
    "horizon by step alone": ("gymnasium-preferences", {"horizon": 10**12}, "sobirl", {"restarts": False}),
    "batch": ("gridworld-preferences", {}, "stoc-sobirl", {"batch": 10**12}),
    "directions": ("synthetic-quadratic", {}, "zero-order", {"directions": 10**12}),
    "backups": ("synthetic-quadratic", {}, "itd", {"backups": 10**12}),
}


@pytest.mark.parametrize("what", RUN_TOO_LARGE)
def test_estimate_beyond_memory_is_one_sentence(what: str) -> None:
    problem, options, estimator, changes = RUN_TOO_LARGE[what]
    sampled = estimator in ("sobirl", "stoc-sobirl")
    algorithm = bl.Algorithm(
        bl.lower_level_solver("soft-q-learning", samples=100)
        if sampled
        else bl.lower_level_solver("soft-policy-iteration"),
        bl.hypergradient_estimator(estimator, **changes),
        bl.upper_level_optimizer("adam"),
    )
    with pytest.raises(bl.InputError, match=r"expected one that fits into the .* of memory here"):
        algorithm.run(bl.problem(problem, **options), iterations=1)


# Memory


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The machine is asked for its memory in this test, and after it."""
    memory.machine_limit.cache_clear()
    yield
    memory.machine_limit.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_limit_of_the_process_and_of_its_group_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's limit is less than the machine's, and `ulimit -v` less than either."""
    import resource

    def limit() -> int:
        memory.machine_limit.cache_clear()
        return memory.memory_limit()

    group = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTROL_GROUP_LIMITS", (group, tmp_path / "missing"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    machine = limit()
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group.write_text("max\n")
    assert limit() == machine
    group.write_text("1048576\n")
    assert limit() == 1 << 20
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 16, resource.RLIM_INFINITY))
    assert limit() == 1 << 16
    with pytest.raises(
        bl.InputError, match=r"\(64, 129\), 64\.5 KiB; expected one that fits into the 64\.0 KiB of memory"
    ):
        bl.validation.check_fits("a table", (64, 129))
    bl.validation.check_fits("a table", (64, 128))


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (3 << 30, "3.0 GiB"),
        (10**30, "more than 1023 EiB"),
    ],
)
def test_bytes_are_written_as_a_reader_writes_them(count: int, words: str) -> None:
    assert memory.size_words(count) == words


# Words from files


def test_control_characters_of_a_checkpoint_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version such as ESC[2J would clear the screen when the warning about it is shown."""
    out = tmp_path / "run"
    ALGORITHM.run(PROBLEM, iterations=1, out=out)
    directory = run_directory.RunDirectory(out, PROBLEM, ALGORITHM, {"iterations": 1, "seed": 0, "tolerance": 0.0})
    found = directory.reopen()
    directory.close()
    assert found is not None
    evil = {"numpy": "\x1b[2J\nError: all is lost", "\x1b]0;title\x07": "1"}
    forged = attrs.evolve(found, versions=evil, stopped_by="\x1b[31m")
    write_atomically(out / "checkpoint", run_directory.encode(forged, ALGORITHM.lower))
    assert bl.load_run(out).stopped_by == "\N{REPLACEMENT CHARACTER}[31m"
    main_status(["resume", str(out), "--iterations", "2"])
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "numpy \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}Error: all is lost" in captured.err


def main_status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_label_that_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "synthetic-quadratic", "-a", "[/b]=m-sobirl", "--seeds", "1", "--budget", "iterations=1"]
    assert main_status([*arguments, "--grid", "1"]) == 0
    assert "[/b]" in capsys.readouterr().out


# Experiments


def test_key_of_a_thousand_parts_is_refused_at_once(tmp_path: Path) -> None:
    """tomllib's time is their number squared: 200,000 of them, in a file of a megabyte, would take an hour."""
    for part in ("a.", "'a' . ", '"\\"".'):
        (tmp_path / "deep.toml").write_text(part * 100_000 + "a = 1")
        with pytest.raises(bl.InputError, match=r"deep\.toml is nested too deeply; expected a TOML file"):
            bl.storage.Experiment.read(tmp_path / "deep.toml")


def test_experiment_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    experiment = bl.storage.Experiment({"problem": {"name": "x", "table": list(range(150_000))}})
    with pytest.raises(bl.InputError, match=r"is of 1\.\d MiB; expected at most 1\.0 MiB of options"):
        experiment.write(tmp_path / "experiment.toml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["iterations", "seed", "tolerance"])
def test_number_that_python_does_not_print_is_one_sentence(tmp_path: Path, setting: str) -> None:
    """A hexadecimal number may have any length, and one of more than 4300 decimal digits cannot be shown."""
    (tmp_path / "long.toml").write_text(f"{setting} = 0x{'F' * 5000}\n")
    with pytest.raises(bl.InputError, match=f"{setting} is an integer of 20,000 bits; expected .* within the range"):
        bl.storage.Experiment.read(tmp_path / "long.toml")


# Files


def test_own_file_is_made_and_found(tmp_path: Path) -> None:
    for _ in range(2):
        os.close(open_own(tmp_path / "lock"))
    assert (tmp_path / "lock").read_bytes() == b""


def test_pipe_in_place_of_an_own_file_is_refused_and_nothing_stays_open(pipe: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="not a regular file"):
        open_own(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        read(pipe, at_most=10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_file_that_grows_while_it_is_read_is_cut_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not looked at before is not read, so that no writer can make a reader's memory grow."""
    file = tmp_path / "growing"
    file.write_bytes(b"12345")
    real = os.fstat

    def as_it_was(handle: int) -> Any:
        found = real(handle)
        return os.stat_result((*found[:6], 4, *found[7:]))

    monkeypatch.setattr(files.os, "fstat", as_it_was)
    assert read(file, at_most=4) == b"1234"
    with pytest.raises(OSError, match="larger than 3 B"):
        read(file, at_most=3)
