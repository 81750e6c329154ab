"""SoBiRL: a model-free solver, the trajectory estimator, gradient descent."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_model_free.estimators import SoBiRL
from bilevelrl_model_free.solvers import SoftQLearning

PAPER_GROWTH = 2.0


@attrs.frozen
class SoBiRLRecipe:
    """SoBiRL, the model-free algorithm of Yang, Gao and Yuan (AISTATS 2025, algorithm 2).

    Soft Q-learning solves the follower to an accuracy ε_k, trajectories give the hyper-gradient, gradient descent moves
    x. The paper's O(ε⁻¹) iterations need ε_k to be summable in squares. Q-learning's error falls as the square root of
    its samples: `schedule="paper"` draws `samples · (k+1)²` in the k-th iteration, so that ε_k ~ 1/(k+1);
    `schedule="constant"` draws the same number every time.

    Args:
        step_size: β > 0, of the gradient step on x. The implicit part has the size of the loss over τ: a follower
            with a low temperature needs small steps.
        groups: groups of trajectories per call of the estimator.
        truncation: steps of a continuation.
        restarts: whether the simulator may be put into any state.
        samples: the follower's transitions in the first outer iteration.
        schedule: "constant" or "paper".
    """

    name: ClassVar[str] = "sobirl"

    step_size: float = attrs.field(default=0.02, validator=bl.validation.is_real(above=0.0))
    groups: int = attrs.field(default=64, validator=bl.validation.is_integer(at_least=1))
    truncation: int = attrs.field(default=50, validator=bl.validation.is_integer(at_least=1))
    restarts: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    samples: int = attrs.field(default=20_000, validator=bl.validation.is_integer(at_least=1))
    schedule: str = attrs.field(default="constant", validator=bl.validation.is_choice("constant", "paper"))

    def build(self) -> bl.Algorithm:
        """The composition."""
        growth = PAPER_GROWTH if self.schedule == "paper" else 0.0
        return bl.Algorithm(
            lower=SoftQLearning(samples=self.samples, growth=growth),
            estimator=SoBiRL(groups=self.groups, truncation=self.truncation, restarts=self.restarts),
            upper=bl.upper_level_optimizer("gradient-descent", step_size=self.step_size),
            name=self.name,
        )
