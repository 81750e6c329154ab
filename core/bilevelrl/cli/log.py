"""`--log`: from the name of a logger to a callback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from bilevelrl.integrations.tensorboard import TensorBoard
from bilevelrl.runs.callbacks import Callback
from bilevelrl.validation.errors import InputError, UnknownNameError

LOGGERS: dict[str, Callable[[Path], Callback]] = {"tensorboard": TensorBoard}

log_option = click.option(
    "--log",
    "logs",
    metavar="NAME[=DIR]",
    multiple=True,
    help="Log every iteration: `tensorboard`, into DIR or into a folder of --out. Repeatable.",
)


def loggers(logs: tuple[str, ...], out: Path | None) -> list[Callback]:
    """The callbacks for `--log`; raises `InputError` for an unknown name or a missing directory.

    It also raises for a directory that cannot be written, and for a directory that is given twice.
    """
    made: list[Callback] = []
    taken: set[tuple[str, Path]] = set()
    for log in logs:
        name, given, text = log.partition("=")
        if name not in LOGGERS:
            raise UnknownNameError("--log", name, LOGGERS)
        directory = Path(text) if text else None if given or out is None else out / name
        if directory is None:
            raise InputError("--log", repr(log), f"a directory, such as {name}=runs/log, or the option --out")
        if (name, directory.resolve()) in taken:
            raise InputError("--log", f"{name!r} twice into {str(directory)!r}", "a directory of its own for each")
        taken.add((name, directory.resolve()))
        made.append(LOGGERS[name](directory))
    return made
