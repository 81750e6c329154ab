"""A good plugin, but for its entry-point name `twin`, which another distribution chose too."""

from typing import ClassVar

import attrs

import bilevelrl as bl


@attrs.frozen
class Twin:
    """Never moves."""

    name: ClassVar[str] = "twin-one"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        """Nothing to remember."""
        return bl.OptimizerState()

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """The same x."""
        return x, state


@bl.hookimpl
def bilevelrl_upper_level_optimizers() -> list[type]:
    """One optimizer."""
    return [Twin]
