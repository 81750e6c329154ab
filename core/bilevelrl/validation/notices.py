"""Warnings for whoever runs a command, as opposed to whoever writes the code."""

from __future__ import annotations


class Notice(UserWarning):
    """A warning in a sentence of its own: the command line shows it each time, without the class and the line."""


class AccuracyWarning(Notice):
    """An answer is less accurate than was asked for, and says so beside its numbers."""
