"""The paper's synthetic problem: a random MDP whose rewards are scaled by a quadratic form of x."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen(eq=False)
class QuadraticFormReward:
    """`r_sa(x) = scale_sa · xᵀMx`; its pullback is `(Σ r̄ ⊙ scale)(M + Mᵀ)x`."""

    scale: bl.Array
    form: bl.Array

    @property
    def dimension(self) -> int:
        """The size of M."""
        return int(self.form.shape[0])

    def __call__(self, x: bl.Array) -> bl.Array:
        """The table at x."""
        return self.scale * float(x @ (self.form @ x))

    def pullback(self, x: bl.Array, cotangent: bl.Array) -> bl.Array:
        """(n,)."""
        return np.vdot(cotangent, self.scale) * (self.form @ x + x @ self.form)

    def row_norms(self, x: bl.Array) -> bl.certificates.RowNorms:
        """`|scale_sa| ‖(M + Mᵀ)x‖₂`."""
        scale, size, form = np.abs(self.scale), np.abs(x), np.abs(self.form)
        whole = float(np.linalg.norm(form @ size + size @ form))
        return bl.certificates.RowNorms(scale * float(np.linalg.norm(self.form @ x + x @ self.form)), scale * whole)


@attrs.frozen
class SyntheticQuadratic:
    """`f(x, π) = ½‖x‖² + ½‖π‖²_F` over a random MDP with `r_sa(x) = u_sa u'_sa xᵀMx`.

    `P(·|s,a)` has a support of uniform size 1..S−1 with normalised uniform weights; u, u' ~ U(0, 1); M is standard
    Gaussian, not symmetric; runs start at x ~ N(0, I), drawn from the run's seed.

    Source: Yang, Gao and Yuan, AISTATS 2025, section 6 and appendix (arXiv 2405.19697), whose run takes β = 8e-3,
    ξ = 0.5, N = 10 and 3000 iterations.

    Args:
        states: S ≥ 2.
        actions: A ≥ 1.
        dimension: n ≥ 1, the length of x.
        discount: γ in [0, 1).
        temperature: τ > 0.
        instance: selects the random instance, an integer of at least 0.
    """

    name: ClassVar[str] = "synthetic-quadratic"
    algorithm: ClassVar[str] = "m-sobirl"

    states: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=2))
    actions: int = attrs.field(default=5, validator=bl.validation.is_integer(at_least=1))
    dimension: int = attrs.field(default=100, validator=bl.validation.is_integer(at_least=1))
    discount: float = attrs.field(default=0.5, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))
    instance: int = attrs.field(default=0, validator=bl.validation.is_integer(at_least=0))

    def build(self) -> bl.BilevelProblem:
        """The problem of this instance."""
        bl.validation.check_fits(f"the form of {self.name!r}", (self.dimension, self.dimension))
        bl.validation.check_fits(f"the transitions of {self.name!r}", (self.states, self.actions, self.states))
        rng = bl.randomness.stream(self.instance, self.name)
        table = (self.states, self.actions)
        scale = rng.random(table) * rng.random(table)
        reward = QuadraticFormReward(scale, rng.standard_normal((self.dimension, self.dimension)))
        return bl.BilevelProblem(
            lower=bl.ParametricMDP(self._transitions(rng), reward, self.discount, self.temperature),
            objective=bl.objectives.QuadraticObjective(),
            start=lambda run_rng: run_rng.standard_normal(self.dimension),
        )

    def _transitions(self, rng: np.random.Generator) -> bl.Array:
        table = np.zeros((self.states, self.actions, self.states))
        for row in table.reshape(-1, self.states):
            support = rng.choice(self.states, size=rng.integers(1, self.states), replace=False)
            # 1 − U is in (0, 1]: no weight is zero, so every row can be normalised.
            row[support] = 1.0 - rng.random(support.size)
            row /= row.sum()
        return table
