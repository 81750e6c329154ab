"""Experiments: the components, options and settings of a run, as tables that are written to and read from TOML."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from bilevelrl.outer_loop import OuterLoop
from bilevelrl.plugins.components import Kind
from bilevelrl.plugins.configuration import options_of
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.storage.files import read, write_atomically
from bilevelrl.validation.errors import InputError, UnknownNameError, printable, value_words
from bilevelrl.validation.fields import as_float
from bilevelrl.validation.memory import size_words

ROLES = {
    "lower": Kind.LOWER_LEVEL_SOLVER,
    "estimator": Kind.HYPERGRADIENT_ESTIMATOR,
    "upper": Kind.UPPER_LEVEL_OPTIMIZER,
}
TABLES = ("problem", "algorithm", *ROLES)
SETTINGS: dict[str, tuple[type, str]] = {
    "iterations": (int, "an integer of at least 0"),
    "seed": (int, "an integer of at least 0"),
    "tolerance": (float, "a number of at least 0"),
}
"""The settings that determine a run's results; when it is resumed, only the number of iterations may change."""
INTERVALS: dict[str, tuple[type, str]] = {
    "checkpoint_every": (int, "an integer of at least 1"),
    "checkpoint_seconds": (float, "a number above 0"),
}
"""The intervals of its checkpoints."""
LARGEST_FILE = 1 << 20
"""The most bytes of an experiment's file; one that is written by hand has a few hundred."""

LONGEST_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){17}""")
"""Keys with more parts than any experiment has (`[algorithm.lower]` has two): tomllib's time is quadratic in them."""


@attrs.frozen
class Experiment:
    """The specification of a run: tables `problem`, `algorithm`, `lower`, `estimator`, `upper`, and the loop's
    settings.

    Each table has the component's `name` and its options. `algorithm` names a recipe. A table `lower`, `estimator` or
    `upper` changes options of the recipe's component, or, with a `name`, replaces it. Without a recipe all three must
    be named.

    Args:
        tables: table name to its entries.
        iterations: the largest number of updates of x.
        seed: keys the random streams.
        tolerance: the stationarity at which to stop; 0: never.
        checkpoint_every: iterations between two checkpoints; None: only the time counts.
        checkpoint_seconds: seconds between two checkpoints.
    """

    tables: Mapping[str, Mapping[str, Any]]
    iterations: int = 500
    seed: int = 0
    tolerance: float = 0.0
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 30.0

    @property
    def settings(self) -> dict[str, Any]:
        """Iterations, seed and tolerance, by name."""
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def intervals(self) -> dict[str, Any]:
        """The intervals of its checkpoints, by name."""
        return {name: getattr(self, name) for name in INTERVALS}

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """Read a TOML file; raises `InputError` if it is malformed or has an unknown key or a wrong type."""
        try:
            data = read(path, at_most=LARGEST_FILE)
        except OSError as error:
            raise InputError(printable(str(path)), f"unreadable ({error.strerror})", "a TOML file") from None
        return cls.decode(data, str(path))

    @classmethod
    def decode(cls, data: bytes, label: str) -> Experiment:
        """The experiment in the bytes of a TOML file; see `read`."""
        try:
            text = data.decode("utf-8")
            if LONGEST_KEY.search(text):
                raise RecursionError
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(label, f"not TOML ({error})", "a TOML file") from None
        except UnicodeDecodeError:
            raise InputError(label, "not text in UTF-8", "a TOML file") from None
        except ValueError as error:  # an integer of thousands of digits
            raise InputError(label, f"unreadable ({error})", "a TOML file") from None
        except RecursionError:
            raise InputError(label, "nested too deeply", "a TOML file") from None
        return cls.parse(content)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Experiment:
        """Check the keys and types of a parsed TOML file."""
        tables: dict[str, Mapping[str, Any]] = {}
        settings: dict[str, Any] = {}
        for key, value in content.items():
            if key in TABLES:
                if not isinstance(value, Mapping):
                    raise InputError(f"[{key}]", value_words(value), "a table with a name and options")
                if not isinstance(value.get("name", ""), str):
                    raise InputError(f"{key}.name", value_words(value["name"]), "a string")
                tables[key] = value
            elif key in SETTINGS or key in INTERVALS:
                settings[key] = check_setting(key, value)
            else:
                raise UnknownNameError("a key of the experiment", key, (*TABLES, *SETTINGS, *INTERVALS))
        return cls(tables, **settings)

    @classmethod
    def describe(cls, problem: BilevelProblem, algorithm: OuterLoop, **settings: Any) -> Experiment:
        """The experiment that repeats this run: every component with all its options.

        For a problem that was composed in Python it has only the name, which `compose` cannot find.
        """
        tables: dict[str, Mapping[str, Any]] = {"problem": {"name": problem.name, **(problem.configuration or {})}}
        if any(entry.name == algorithm.name for entry in registry().of_kind(Kind.ALGORITHM)):
            tables["algorithm"] = {"name": algorithm.name}  # only its name: the components follow with all options
        for role in ROLES:
            component = getattr(algorithm, role)
            tables[role] = {"name": component.name, **options_of(component)}
        return cls(tables, **settings)

    def to_toml(self) -> str:
        """The experiment as the text of a TOML file."""
        import tomli_w

        content = {name: value for name, value in (self.settings | self.intervals).items() if value is not None}
        content |= {name: _plain(table) for name, table in self.tables.items()}
        return tomli_w.dumps(content)

    def write(self, path: Path) -> None:
        """Write the experiment as TOML."""
        text = self.to_toml().encode()
        if len(text) > LARGEST_FILE:  # raised before a run that could not be read again
            raise InputError(str(path), f"of {size_words(len(text))}", f"at most {size_words(LARGEST_FILE)} of options")
        write_atomically(path, text)

    def entries(self, table: str) -> tuple[str | None, dict[str, Any]]:
        """A table's name (None if it has none) and its options."""
        options = dict(self.tables.get(table, {}))
        return options.pop("name", None), options

    def comparable(self) -> dict[str, dict[str, Any]]:
        """The tables without options that are code (functions, objects), which a file cannot represent."""
        return {
            name: {key: _plain(value) for key, value in table.items() if _is_plain(value)}
            for name, table in self.tables.items()
        }


def check_setting(key: str, value: Any) -> Any:
    """A setting of the outer loop with its type checked; the loop checks its range."""
    kind, expected = (SETTINGS | INTERVALS)[key]
    accepted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise InputError(key, value_words(value), expected)
    if not math.isfinite(as_float(value)):
        raise InputError(key, value_words(value), f"{expected} and within the range of float64")
    return as_float(value) if kind is float else value


def _plain(value: Any) -> Any:
    """Options in TOML's own types."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, bool | int | float | str) else repr(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, bool | int | float | str) or hasattr(value, "tolist")
