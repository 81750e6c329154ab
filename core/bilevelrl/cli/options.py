"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import click

from bilevelrl.validation.errors import InputError

JOBS = "Processes that share seeds, sample batches and contexts. Does not change the results."

certify_option = click.option(
    "--certify", is_flag=True, help="At the end, prove a bound on the gradient's error; takes a few linear solves."
)


def checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options for the checkpoint intervals; the default is the file's or the earlier run's value."""
    every = click.option("--checkpoint-every", type=int, metavar="K", help="Write a checkpoint every K iterations.")
    seconds = click.option(
        "--checkpoint-seconds",
        type=float,
        metavar="T",
        help="Write a checkpoint when the last one is T seconds old (default 30).",
    )
    return every(seconds(command))


def one_run_only(logs: tuple[str, ...], certify: bool) -> None:
    """Raise `InputError` for options of a single run: a log or a certificate."""
    if certify:
        raise InputError("--certify", "given", "one run, not several seeds")
    if logs:
        raise InputError("--log", repr(logs[0]), "one run, not several seeds; `--out` keeps the history of each")


def parse_option(option: str, change: str, example: str) -> tuple[str, Any]:
    """Split `KEY=VALUE`, the value of a command-line option, into a key and a value."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise InputError(option, repr(change), f"KEY=VALUE, such as {example}")
    return key.strip(), _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value, or else the text itself, so that `--set problem.environment=Taxi-v3` needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:  # not TOML, or an integer of thousands of digits
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break in the text would start another key
