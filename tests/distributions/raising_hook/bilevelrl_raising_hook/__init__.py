"""Fails when its hook is called."""

import bilevelrl as bl


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """Raises."""
    raise RuntimeError("the licence server does not answer")
