"""A harbour master sets tolls and boats answer: a plugin that offers every kind of component."""

from __future__ import annotations

import click

import bilevelrl as bl
from bilevelrl_harbour.estimator import RichardsonAdjoint
from bilevelrl_harbour.optimizer import SignDescent
from bilevelrl_harbour.problem import HarbourTolls
from bilevelrl_harbour.recipe import Harbour
from bilevelrl_harbour.solver import AnchoredValueIteration


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """Value iteration with an anchor."""
    return [AnchoredValueIteration]


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """The adjoint equation by Richardson's iteration."""
    return [RichardsonAdjoint]


@bl.hookimpl
def bilevelrl_upper_level_optimizers() -> list[type]:
    """Descent along the signs of the gradient."""
    return [SignDescent]


@bl.hookimpl
def bilevelrl_problems() -> list[type]:
    """The harbour."""
    return [HarbourTolls]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """All of this plugin's components, composed."""
    return [Harbour]


@click.command("harbour-depth")
def depth() -> None:
    """Print the depth of the harbour."""
    click.echo("12 m")


@bl.hookimpl
def bilevelrl_commands() -> list[click.Command]:
    """One command."""
    return [depth]
