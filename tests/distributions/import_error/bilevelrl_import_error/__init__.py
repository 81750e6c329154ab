"""Fails when imported: it needs a module that nobody installed."""

import a_module_that_nobody_installed

import bilevelrl as bl


@bl.hookimpl
def bilevelrl_problems() -> list[type]:
    """Never called."""
    return [a_module_that_nobody_installed.Problem]
