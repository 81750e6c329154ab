"""The limits in seconds of the kit, all multiplied by one factor, for machines that are busy or slow."""

from __future__ import annotations

import os
import time

from bilevelrl.validation.errors import InputError

VARIABLE = "BILEVELRL_CHECK_PATIENCE"


def patience() -> float:
    """The factor on every limit in seconds: the environment's `BILEVELRL_CHECK_PATIENCE`, 1 where it is not set.

    Raises:
        InputError: where it is not a positive finite number.
    """
    text = os.environ.get(VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise InputError(f"the environment variable {VARIABLE}", repr(text), "a positive number, such as 10")
    return factor


def used_up(seconds: float, began: float) -> bool:
    """Whether a limit has passed since a moment of `time.monotonic`."""
    return time.monotonic() - began > seconds * patience()
