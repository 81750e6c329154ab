"""The rivals as whole algorithms, each with the follower of its source."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_rivals.aid import ApproximateImplicit
from bilevelrl_rivals.amd import ForwardSensitivities
from bilevelrl_rivals.direct_only import DirectOnly
from bilevelrl_rivals.itd import IterativeDifferentiation
from bilevelrl_rivals.pbrl import ValuePenalty


def _descend(
    name: str, lower: bl.LowerLevelSolver, estimator: bl.HyperGradientEstimator, step_size: float
) -> bl.Algorithm:
    return bl.Algorithm(lower, estimator, bl.upper_level_optimizer("gradient-descent", step_size=step_size), name)


def _sweeping(sweeps: int) -> bl.LowerLevelSolver:
    return bl.lower_level_solver("soft-value-iteration", sweeps=sweeps)


@attrs.frozen
class AID:
    """Approximate implicit differentiation (Pedregosa 2016; Ji, Yang and Liang 2021) with a follower solved to 1e-10.

    The lower level's Hessian is definite only at the follower's optimum, so soft policy iteration solves the follower
    completely.

    Args:
        step_size: β > 0, of the gradient step on x.
        damping: δ ≥ 0; see the estimator `aid`.
    """

    name: ClassVar[str] = "aid"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    damping: float = attrs.field(default=1e-3, validator=bl.validation.is_real(at_least=0.0))

    def build(self) -> bl.Algorithm:
        """The composition."""
        estimator = ApproximateImplicit(damping=self.damping)
        return _descend(self.name, bl.lower_level_solver("soft-policy-iteration"), estimator, self.step_size)


@attrs.frozen
class ITD:
    """Iterative differentiation (Franceschi et al. 2018): N warm-started backups, then N more, differentiated.

    The estimator unrolls further backups, from the result of the follower's N: an outer iteration takes 2N + 2.

    Args:
        step_size: β > 0, of the gradient step on x.
        sweeps: N ≥ 1.
    """

    name: ClassVar[str] = "itd"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    sweeps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        estimator = IterativeDifferentiation(backups=self.sweeps)
        return _descend(self.name, _sweeping(self.sweeps), estimator, self.step_size)


@attrs.frozen
class AMD:
    """Adaptive model design (Chen et al. 2022): N backups of V and as many of its sensitivities, both warm-started.

    Args:
        step_size: β > 0, of the gradient step on x.
        sweeps: N ≥ 1.
    """

    name: ClassVar[str] = "amd"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    sweeps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        estimator = ForwardSensitivities(sweeps=self.sweeps)
        return _descend(self.name, _sweeping(self.sweeps), estimator, self.step_size)


@attrs.frozen
class PBRL:
    """Penalty-based bilevel reinforcement learning (Shen, Yang and Chen 2024) with the value penalty.

    K steps on the leader's own policy, one on x, in turn. `V*` comes from soft policy iteration.

    Args:
        step_size: β > 0, of the gradient step on x. The lag of the policy is multiplied by σ: a larger penalty needs
            smaller steps, or a larger K.
        penalty: σ > 0: the bias is O(1/σ).
        steps: K ≥ 1, steps on the policy in an outer iteration.
    """

    name: ClassVar[str] = "pbrl"

    step_size: float = attrs.field(default=0.05, validator=bl.validation.is_real(above=0.0))
    penalty: float = attrs.field(default=30.0, validator=bl.validation.is_real(above=0.0))
    steps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        estimator = ValuePenalty(penalty=self.penalty, steps=self.steps)
        return _descend(self.name, bl.lower_level_solver("soft-policy-iteration"), estimator, self.step_size)


@attrs.frozen
class DirectOnlyRecipe:
    """Fits the reward to the follower's trajectories without differentiating its policy (Christiano et al. 2017).

    The follower is solved with its model if it has one, or learnt by soft Q-learning from samples.

    Args:
        step_size: β > 0, of the gradient step on x.
        groups: groups of trajectories in each call, for an objective of trajectories.
        follower: "model" or "samples".
    """

    name: ClassVar[str] = "direct-only"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    groups: int = attrs.field(default=64, validator=bl.validation.is_integer(at_least=1))
    follower: str = attrs.field(default="model", validator=bl.validation.is_choice("model", "samples"))

    def build(self) -> bl.Algorithm:
        """The composition."""
        solver = "soft-policy-iteration" if self.follower == "model" else "soft-q-learning"
        return _descend(self.name, bl.lower_level_solver(solver), DirectOnly(groups=self.groups), self.step_size)
