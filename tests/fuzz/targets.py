"""What is fuzzed: each target takes bytes, and may do nothing with them but accept them, or raise `InputError`.

What it accepts it also uses: prints, writes and reads again, computes with. So a file that is accepted wrongly shows.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import attrs
import numpy as np
import scipy.sparse
import tomli_w
from safetensors.numpy import save

import bilevelrl as bl
from bilevelrl.factories import compose_algorithm
from bilevelrl.plugins.configuration import build
from bilevelrl.storage import array_files, checkpoint
from bilevelrl.storage.history import History
from bilevelrl.validation import memory
from fuzz.feed import Feed
from fuzz.mutations import Mutation, change_bytes, change_tree, leaf, real, value, whole


@attrs.frozen
class Target:
    """Something that reads bytes.

    Args:
        name: what the command line calls it.
        run: reads them; raises `InputError`, or nothing.
        seeds: valid inputs, made at first need.
        mutate: makes a new input of the valid ones.
        seconds: of the processor that one input may take; a second is a hang.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutation
    seconds: float = 1.0


def _bytes_of_a_seed(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return change_bytes(rng, rng.choice(seeds), seeds)


# Experiments


def read_toml(data: bytes) -> None:
    """An experiment, its algorithm composed and its problem configured; what is accepted can be written and read."""
    experiment = bl.storage.Experiment.decode(data, "experiment.toml")
    compose_algorithm(experiment, bl.plugins.registry())
    name, options = experiment.entries("problem")
    if name is None:
        return  # `compose` refuses it
    build(bl.plugins.registry().find(bl.plugins.Kind.PROBLEM, name).component, options)
    settings = {"iterations": experiment.iterations, "seed": experiment.seed, "tolerance": experiment.tolerance}
    again = bl.storage.Experiment.decode(tomli_w.dumps(settings | experiment.comparable()).encode(), "again")
    assert repr(again.comparable()) == repr(experiment.comparable())


@functools.cache
def toml_seeds() -> Sequence[bytes]:
    """Every algorithm, in short and with every option spelt out."""
    problem = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)
    seeds = [b'iterations = 5\nseed = 1\ntolerance = 1e-4\n[problem]\nname = "kl-rlhf"\n[algorithm]\nname = "sobirl"\n']
    for name in ("m-sobirl", "stoc-sobirl", "aid", "zero-order"):
        experiment = bl.storage.Experiment.describe(problem, bl.algorithm(name), iterations=3, seed=0, tolerance=0.0)
        seeds.append(tomli_w.dumps({"iterations": 3, **experiment.comparable()}).encode())
    return seeds


def mutate_toml(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes, or a line's value, key or place."""
    text = rng.choice(seeds)
    if rng.random() < 0.4:
        return change_bytes(rng, text, seeds)
    lines = text.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition(b" = ")
        kind = rng.randrange(6)
        if kind < 2 and equals:
            lines[at] = key + equals + _toml(rng)
        elif kind == 2 and equals:
            lines[at] = (
                rng.choice((b"name", b"seed", key + b".x", b'"\xc3\xa9"', b"''", key.upper())) + b" = " + _toml(rng)
            )
        elif kind == 3:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 4:
            lines.insert(
                at, rng.choice((b"[algorithm]", b"[[lower]]", b"[problem.name]", b"[upper]", b"a." * 20 + b"b = 1"))
            )
        else:
            lines[at] = change_bytes(rng, lines[at], seeds)
    return b"\n".join(lines)


def _toml(rng: random.Random) -> bytes:
    odd = (
        b"0x" + b"F" * 5000,
        b"1" * 5000,
        b"[" * 3000,
        b"{a=" * 500,
        b"1979-05-27T07:32:00Z",
        b"'''",
        b"1_0",
        b"+nan",
    )
    if rng.random() < 0.3:
        return rng.choice(odd)
    try:
        return tomli_w.dumps({"x": value(rng)}).partition("=")[2].strip().encode("utf-8", "replace")
    except (ValueError, RecursionError):  # too large, or too deep, to be written
        return str(whole(rng)).encode()


# Checkpoints

TABULAR = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)


@functools.cache
def _sampled() -> bl.BilevelProblem:
    return bl.problem("kl-rlhf", vocabulary=2, length=2)


@functools.cache
def _exact() -> bl.Algorithm:
    return attrs.evolve(bl.algorithm("m-sobirl"), upper=bl.upper_level_optimizer("adam"))


@functools.cache
def _learner() -> bl.Algorithm:
    return bl.algorithm("stoc-sobirl", batch=4, samples=50)


def read_checkpoint(data: bytes) -> None:
    """A checkpoint of one of two problems; what is accepted can be reported, written and read again."""
    problem, algorithm = (TABULAR, _exact()) if b"solution.carry.visits" not in data else (_sampled(), _learner())
    found = checkpoint.decode(data, "the checkpoint", problem, algorithm.lower)
    again = checkpoint.decode(checkpoint.encode(found, algorithm.lower), "the same again", problem, algorithm.lower)
    assert again.history.lines() == found.history.lines()
    run = bl.Run(problem, algorithm, 3, 0, 0.0, found.first, found.last, found.best, found.history,
                 found.status, found.stopped_by, found.seconds)  # fmt: skip
    with np.errstate(all="ignore"):
        repr(run), run.facts(), run.history.table()
    for text in (found.stopped_by, *found.versions, *found.versions.values()):
        assert text.isprintable()


@functools.cache
def checkpoint_seeds() -> Sequence[bytes]:
    """A tabular and a sampled run, with warm starts and an optimiser that remembers."""
    return [
        _checkpoint(TABULAR, _exact(), 2),
        _checkpoint(TABULAR, _exact(), 0),
        _checkpoint(_sampled(), _learner(), 1),
    ]


def _checkpoint(problem: bl.BilevelProblem, algorithm: bl.Algorithm, iterations: int) -> bytes:
    run = algorithm.run(problem, iterations=iterations)
    made = checkpoint.Checkpoint(
        run.first, run.last, run.history, run.best, {"iterations": iterations, "seed": 0, "tolerance": 0.0},
        run.experiment().comparable(), {"bilevelrl": "0.1.0"}, run.status, run.stopped_by, 1.0,
    )  # fmt: skip
    return checkpoint.encode(made, algorithm.lower)


def mutate_checkpoint(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes, mostly with a checksum that fits; the JSON; where arrays lie; what is in them."""
    data = rng.choice(seeds)
    if rng.random() < 0.15:
        return change_bytes(rng, data, seeds)
    payload = data.split(b"\n", 2)[-1]
    if rng.random() < 0.2:
        return signed(change_bytes(rng, payload, seeds))
    try:
        length, _, rest = payload.partition(b"\n")
        told, arrays = json.loads(rest[: int(length)]), rest[int(length) :]
    except (ValueError, RecursionError):
        return signed(change_bytes(rng, payload, seeds))
    try:
        if rng.random() < 0.6:
            told = change_tree(rng, told)
        else:
            arrays = change_arrays(rng, arrays)
        text = json.dumps(told).encode()
    except (ValueError, RecursionError, UnicodeEncodeError):  # too deep, or too large, to be copied or written
        return signed(change_bytes(rng, payload, seeds))
    return signed(b"%d\n%s%s" % (len(text), text, arrays))


def change_arrays(rng: random.Random, packed: bytes) -> bytes:
    """A safetensors file with its header, one array's entry, its name or its numbers changed; `ValueError` for none."""
    length = int.from_bytes(packed[:8], "little")
    header, body = json.loads(packed[8 : 8 + length]), packed[8 + length :]
    kind = rng.randrange(6)
    if not isinstance(header, dict) or not header or kind == 0:
        header = change_tree(rng, header)
    elif kind < 3:
        entry = header[rng.choice(list(header))]
        if isinstance(entry, dict):
            numbers = [whole(rng) for _ in range(rng.randrange(4))]
            entry |= rng.choice(({"shape": numbers}, {"data_offsets": numbers}, {"dtype": rng.choice(DTYPES)}))
    elif kind == 3:
        name = rng.choice(list(header))
        header[rng.choice(("", "../" * 3 + name, "labels", "last.x", "__metadata__", name[1:]))] = header.pop(name)
    else:
        at = rng.randrange(len(body) // 8 + 1) * 8
        body = body[:at] + np.array([real(rng)]).tobytes() + body[at + rng.choice((0, 8, 8, 8, 16)) :]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "C64", "O", "F8_E4M3", "")


def signed(payload: bytes) -> bytes:
    """A payload with a checksum that fits: anybody can make one."""
    return b"bilevelrl checkpoint 2\n%s\n%s" % (sha256(payload).hexdigest().encode(), payload)


# Datasets


def read_dataset(data: bytes) -> None:
    """A dataset of preferences; what is accepted can be written and read again, and gives a loss."""
    from bilevelrl.objectives.preferences import PARTS

    dataset = bl.objectives.PreferenceDataset.of(array_files.named_arrays(data, "pairs.safetensors", PARTS))
    dataset.check_table((2**31, 2**31))  # refuses what is not an index; functions of observations take any numbers
    assert dataset.first.actions.dtype == np.int64
    reward = bl.parametric.TabularReward(np.zeros((4, 3)))
    value, gradient, _ = bl.objectives.PreferenceDatasetObjective(reward, dataset).value_and_gradients(
        np.zeros(12), np.zeros((4, 3))
    )
    assert abs(value - np.log(2.0)) < 1e-9
    assert np.isfinite(gradient).all()


@functools.cache
def dataset_seeds() -> Sequence[bytes]:
    """A few pairs, in several integer types."""
    rng = np.random.default_rng(0)
    seeds = []
    for kind in ("i8", "u1", "i4", "i2"):
        arrays: dict[str, Any] = {"labels": rng.random(3)}
        for name in ("first", "second"):
            arrays[f"{name}_observations"] = rng.integers(4, size=(3, 3)).astype(kind)
            arrays[f"{name}_actions"] = rng.integers(3, size=(3, 2)).astype(kind)
        seeds.append(save(arrays))
    return seeds


def mutate_dataset(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes of the file; or its header, or its numbers."""
    data = rng.choice(seeds)
    if rng.random() < 0.4:
        return change_bytes(rng, data, seeds)
    try:
        return change_arrays(rng, data)
    except (ValueError, RecursionError, UnicodeEncodeError):
        return change_bytes(rng, data, seeds)


# Histories


def read_history(data: bytes) -> None:
    """A history; what is accepted can be written and read again, and is a table."""
    found = History.decode(data, "history.jsonl")
    again = History.decode(found.lines().encode(), "again")
    assert again.lines() == found.lines()
    assert found.table().shape == (len(found), len(found.columns))
    for line in found.lines().splitlines():
        json.loads(line, parse_constant=_no_number)


def _no_number(word: str) -> None:
    raise AssertionError(word)


@functools.cache
def history_seeds() -> Sequence[bytes]:
    """Of two runs, and of one that is cut off."""
    runs = [bl.algorithm(name).run(TABULAR, iterations=3) for name in ("m-sobirl", "zero-order")]
    whole_files = [run.history.lines().encode() for run in runs]
    return [*whole_files, whole_files[0][:-40], whole_files[1].replace(b"\n", b"\r\n")]


def mutate_history(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes, or a row's values and columns, or whole lines."""
    data = rng.choice(seeds)
    if rng.random() < 0.4:
        return change_bytes(rng, data, seeds)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        row = json.loads(lines[at])
        row = change_tree(rng, row) if rng.random() < 0.5 else row | {rng.choice(list(row)): leaf(rng)}
        lines[at] = json.dumps(row).encode()
    except (ValueError, TypeError, RecursionError):
        lines[at] = change_bytes(rng, lines[at], seeds)
    if rng.random() < 0.3:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"\n".join(lines)


# MDPs

ENTRIES: tuple[Any, ...] = (
    0.0,
    1.0,
    0.5,
    1 / 3,
    -0.5,
    2.0,
    float("nan"),
    float("inf"),
    1e308,
    5e-324,
    True,
    None,
    "1",
    10**400,
    1j,
)
TYPES = ("f8", "f8", "f8", "f4", "f2", "i8", "u1", "?", "O", "c16", "U3", ">f8", "M8[s]")
FORMATS = ("csr", "csc", "coo", "dok", "lil", "bsr", "dia")


def build_mdp(data: bytes) -> None:
    """A `SoftMDP` of arrays, lists, sparse or masked ones, mostly of shapes that fit; one backup of it."""
    feed = Feed(data)
    states, actions = 1 + feed.number(4), 1 + feed.number(3)
    with np.errstate(all="ignore"):  # the input is being made here, and may be nonsense
        fields = {
            "transitions": _kernel(feed, states, actions),
            "rewards": _table(feed, (states, actions)),
            "discount": feed.choice((0.9, 0.0, 0.999999, *ENTRIES)),
            "temperature": feed.choice((1.0, 1e-3, 1e-300, 1e300, *ENTRIES)),
            "initial": feed.choice((None, None, np.full(states, 1.0 / states), _table(feed, (states,)))),
            "reference": feed.choice((None, None, np.ones((states, actions)), _table(feed, (states, actions)))),
        }
    mdp = bl.SoftMDP(**fields)
    rows, successors, probabilities = mdp.transitions.stored()
    sums = np.bincount(rows, weights=probabilities, minlength=mdp.states * mdp.actions)
    assert np.abs(sums - 1.0).max() < 1e-7, sums  # 1e-8 is allowed, and the bincount rounds
    assert (probabilities >= 0).all()
    assert successors.max() < mdp.states
    with np.errstate(all="ignore"):
        policy = bl.mdp.soft_backup(mdp, np.zeros(mdp.states)).policy
    assert policy.shape == mdp.rewards.shape


def _kernel(feed: Feed, states: int, actions: int) -> Any:
    if feed.number(4) == 0:
        return _table(feed, (states, actions, states))
    good = np.zeros((states, actions, states))
    for row in good.reshape(-1, states):
        row[feed.number(states)] += 0.75
        row[feed.number(states)] += 0.25
    if feed.number(3) == 0:
        good[feed.number(states), feed.number(actions), feed.number(states)] = feed.choice(
            (0.0, -0.25, np.nan, 1e308, 0.5)
        )
    kind = feed.number(5)
    if kind == 0:
        return _sparse(feed, good.reshape(-1, states))
    if kind == 1:
        return good.tolist()
    return good if kind == 2 else good.astype(feed.choice(("f8", "f4", "f2", "O", ">f8")))


def _sparse(feed: Feed, matrix: bl.Array) -> Any:
    """In any format, perhaps with repeated entries in the wrong order, or of another shape or type."""
    form = feed.choice(FORMATS)
    made = scipy.sparse.coo_array(matrix)
    if feed.number(4) == 0:
        doubled = (
            np.append(made.data, made.data) / 2,
            (np.append(made.row, made.row[::-1]), np.append(made.col, made.col[::-1])),
        )
        made = scipy.sparse.coo_array(doubled, shape=matrix.shape)
    if feed.number(8) == 0:
        made = scipy.sparse.coo_array(matrix[: max(1, feed.number(8))])
    if feed.number(8) == 0:
        made = made.astype(feed.choice(("f4", "i8", "?", "c16")))
    made = made.asformat(form)
    if feed.number(4) == 0:
        _misplace(feed, made)
    return made


def _misplace(feed: Feed, made: Any) -> None:
    """An index or a pointer that points elsewhere, as damage or a slip of its maker may leave it."""
    names = [name for name in ("indices", "indptr", "row", "col", "offsets") if hasattr(made, name)]
    if not names:
        return
    name = feed.choice(names)
    places = np.array(getattr(made, name))
    if places.size:
        places[feed.number(places.size)] = feed.choice((-(2**31), -5, -1, 0, 1, 99, 10**6, 2**31 - 1))
        setattr(made, name, places)


def _table(feed: Feed, shape: tuple[int, ...]) -> Any:
    """Of the shape asked for, mostly, with entries of every kind."""
    if feed.number(16) == 0:
        shape = feed.choice(((), (0,), (2, 0, 2), shape[::-1], (*shape, 1), (1,) * 33))[:32]
    entries = [feed.choice(ENTRIES[: feed.choice((2, 4, len(ENTRIES)))]) for _ in range(int(np.prod(shape)))]
    try:
        table: Any = np.array(entries, dtype=object).reshape(shape).astype(feed.choice(TYPES))
    except (TypeError, ValueError, OverflowError):
        table = np.array(entries, dtype=object).reshape(shape)
    kind = feed.number(10)
    if kind == 0:
        return table.tolist()
    if kind == 1:
        return np.ma.masked_array(table, mask=np.resize([False, True], table.shape))
    if kind == 2:
        return [*table.tolist(), [1.0]] if table.ndim else table
    return feed.choice((None, "rewards", {}, 3.0, [], [[]], b"x")) if kind == 3 else table


def mdp_seeds() -> Sequence[bytes]:
    """Any bytes are an MDP, or nearly one."""
    return [bytes(range(200)), bytes([1] * 60), bytes([2, 1, 1] * 40), bytes(200)]


def mutate_mdp(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes at random, or changed."""
    return rng.randbytes(rng.randrange(200)) if rng.random() < 0.5 else _bytes_of_a_seed(rng, seeds)


# Options

MOST_MEMORY = 1 << 20
"""What a problem may take here, so that an option that sizes something unseen shows; tables are copied a few times."""


def build_problem(data: bytes) -> None:
    """A registered problem of any options, as JSON `[name, options]`, on a machine of little memory."""
    try:
        name, options = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return
    if not isinstance(name, str) or not isinstance(options, dict):
        return
    real_limit = memory.memory_limit
    memory.memory_limit = lambda: MOST_MEMORY
    try:
        problem = bl.plugins.registry().create(bl.plugins.Kind.PROBLEM, name, options)
    finally:
        memory.memory_limit = real_limit
    assert problem.lower.dimension >= 1


@functools.cache
def option_seeds() -> Sequence[bytes]:
    """Every problem with every option."""
    seeds = []
    for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.PROBLEM):
        options = {field.name: field.default for field in attrs.fields(entry.component) if field.init}
        seeds.append(json.dumps([entry.name, options]).encode())
    # What samples while it is built.
    seeds.append(json.dumps(["kl-rlhf", {"preferences": "offline", "pairs": 20}]).encode())
    seeds.append(json.dumps(["inverse-rl", {"demonstrations": 5, "horizon": 3}]).encode())
    return seeds


def mutate_options(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """The values of one to three options, of their own kind or any; words that mean something elsewhere."""
    try:
        name, options = json.loads(rng.choice(seeds))
        keys = list(options)
        for key in rng.sample(keys, min(len(keys), rng.choice((1, 1, 2, 3)))):
            known = options[key]
            if isinstance(known, bool | type(None)) or rng.random() < 0.1:
                options[key] = value(rng)
            elif isinstance(known, int):
                options[key] = rng.choice((rng.randrange(2, 30), whole(rng), 10 ** rng.randrange(2, 8)))
            elif isinstance(known, float):
                options[key] = real(rng)
            else:
                options[key] = rng.choice(
                    ("Taxi-v3", "FrozenLake-v1", "CartPole-v1", "os:x", "a/b-v0", "ground", "offline", "é", "")
                )
        return json.dumps([name, options]).encode()
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        return _bytes_of_a_seed(rng, seeds)


TARGETS = {
    target.name: target
    for target in (
        Target("toml", read_toml, toml_seeds, mutate_toml),
        Target("checkpoint", read_checkpoint, checkpoint_seeds, mutate_checkpoint),
        Target("dataset", read_dataset, dataset_seeds, mutate_dataset),
        Target("history", read_history, history_seeds, mutate_history),
        Target("mdp", build_mdp, mdp_seeds, mutate_mdp),
        Target("options", build_problem, option_seeds, mutate_options, seconds=4.0),
    )
}
