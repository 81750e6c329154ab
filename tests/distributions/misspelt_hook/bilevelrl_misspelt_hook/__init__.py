"""Fails when registered: one hook's name lacks its last letter."""

from typing import ClassVar

import attrs

import bilevelrl as bl


@attrs.frozen
class Standstill:
    """Never moves; well-made, but offered by a plugin that is not."""

    name: ClassVar[str] = "standstill"

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
    """A good hook: it is left out with the bad one, so that a plugin is there as a whole or not at all."""
    return [Standstill]


@bl.hookimpl
def bilevelrl_problem() -> list[type]:
    """Meant to be `bilevelrl_problems`."""
    return []
