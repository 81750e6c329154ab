"""Warnings for users of a command, as opposed to authors of code."""

from __future__ import annotations


class Notice(UserWarning):
    """A warning for users: the command line shows it each time, without the class and the source line."""


class AccuracyWarning(Notice):
    """An answer is less accurate than requested."""
