"""Any recipe, context by context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_contexts.estimator import PerContextEstimator
from bilevelrl_contexts.inner import is_mapping
from bilevelrl_contexts.solver import PerContextSolver


@attrs.frozen
class PerContext:
    """A recipe whose followers are solved and differentiated one by one: contexts are tasks for several processes.

    A deterministic recipe gives the same iterates as by itself, to rounding and the solver's tolerance.

    Args:
        algorithm: the name of the recipe.
        step_size: its step size; None for its own.
        options: its other options.
    """

    name: ClassVar[str] = "per-context"

    algorithm: str = attrs.field(default="exact-gradient", validator=attrs.validators.instance_of(str))
    step_size: float | None = attrs.field(default=None, validator=bl.validation.is_real(above=0.0, optional=True))
    options: Mapping[str, Any] = attrs.field(factory=dict, validator=is_mapping)

    def build(self) -> bl.Algorithm:
        """The composition."""
        own = {} if self.step_size is None else {"step_size": self.step_size}
        base = bl.algorithm(self.algorithm, **{**self.options, **own})
        return bl.Algorithm(
            lower=PerContextSolver(base.lower.name, bl.plugins.options_of(base.lower)),
            estimator=PerContextEstimator(base.estimator.name, bl.plugins.options_of(base.estimator)),
            upper=base.upper,
            name=self.name,
        )
