"""Fails when registered: its hook takes an argument."""

import bilevelrl as bl


@bl.hookimpl
def bilevelrl_problems(configuration: dict[str, object]) -> list[type]:
    """Hooks take no argument; options are the fields of the classes they return."""
    return []
