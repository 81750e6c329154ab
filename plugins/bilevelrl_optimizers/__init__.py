"""Upper-level optimizers, which move x along an estimated hyper-gradient."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_optimizers.adam import Adam
from bilevelrl_optimizers.basin_hopping import BasinHopping
from bilevelrl_optimizers.gradient_descent import GradientDescent


@bl.hookimpl
def bilevelrl_upper_level_optimizers() -> list[type]:
    """Gradient descent, Adam, and basin hopping on top of it."""
    return [GradientDescent, Adam, BasinHopping]
