"""Options that several commands share, and what is written in them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import click

from bilevelrl.validation.errors import InputError

JOBS = "Processes that share seeds, sample batches and contexts. The results do not depend on it."

certify_option = click.option(
    "--certify", is_flag=True, help="At the end, prove how far the gradient is from the true one; a few linear solves."
)


def checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how often a run is written; what is not given is as in the file, or as before."""
    every = click.option("--checkpoint-every", type=int, metavar="K", help="Write a checkpoint every K iterations.")
    seconds = click.option(
        "--checkpoint-seconds",
        type=float,
        metavar="T",
        help="Write a checkpoint where the last one is T seconds old (default 30).",
    )
    return every(seconds(command))


def one_run_only(logs: tuple[str, ...], certify: bool) -> None:
    """Raise `InputError` for what several runs cannot have: one log, one certificate."""
    if certify:
        raise InputError("--certify", "given", "one run, not several seeds")
    if logs:
        raise InputError("--log", repr(logs[0]), "one run, not several seeds; `--out` keeps the history of each")


def parse_option(option: str, change: str, example: str) -> tuple[str, Any]:
    """`KEY=VALUE`, given with an option of the command line, as a key and a value."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise InputError(option, repr(change), f"KEY=VALUE, such as {example}")
    return key.strip(), _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value, or, where it is none, the text itself: `--set problem.environment=Taxi-v3` needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:  # not TOML, or an integer of thousands of digits
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break in the text would begin another key
