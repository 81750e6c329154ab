"""What a component promises of its answers, declared so that a test can hold it to its word."""

from __future__ import annotations

import attrs

from bilevelrl.validation import InputError, is_flag, is_real


@attrs.frozen(kw_only=True)
class Tags:
    """What a solver or an estimator promises; `bilevelrl.testing` checks it, and picks its laws by it.

    A component has them as `tags`, an attribute of the class, or a property where they depend on its options. What the
    component needs (a transition model, or a simulator) is not repeated here: `requires` says it.

    Args:
        exact: deterministic, and as good as its tolerance allows: a solver that goes on until its accuracy is
            guaranteed, an estimator that equals `∇φ` at an exact answer of the follower.
        tracking: deterministic, and not yet exact after one call: warm-started by its own answer again and again at a
            fixed x, it converges to the exact one.
        stochastic: draws random numbers. A component without tags is taken to draw them. The estimate of a stochastic
            estimator that is not biased has `∇φ` as its expectation.
        biased: the answer, or its expectation, is not the exact one. An estimator that can say by how much has a
            method `bias_bound(discount) -> float`: an upper bound as a share of `2‖c‖₁ max‖∇q‖/(1−γ)`, the largest
            size that an implicit part can have. Without it the kit does not ask how large the bias is.
        tolerance: what "as good as" means. Of an exact solver, the error `‖V − V*‖∞` that `Status.CONVERGED`
            guarantees, in units of the reward; of an exact estimator, a relative error of the gradient on top of
            rounding; of a biased deterministic one, by how much two forms of one question (other storage, other labels)
            may move its answer, as a share of the largest terms it may be made of; of a stochastic solver, ε in
            `‖π − π*‖∞ ≤ ε (1 + span V*/τ)` on the kit's small problems with its default budget.

    Raises:
        InputError: where the promises contradict each other.
    """

    exact: bool = attrs.field(default=False, validator=is_flag())
    tracking: bool = attrs.field(default=False, validator=is_flag())
    stochastic: bool = attrs.field(default=False, validator=is_flag())
    biased: bool = attrs.field(default=False, validator=is_flag())
    tolerance: float = attrs.field(default=0.0, validator=is_real(at_least=0.0))

    def __attrs_post_init__(self) -> None:
        for other in ("tracking", "stochastic", "biased"):
            if self.exact and getattr(self, other):
                raise InputError("tags", f"exact and {other}", "one of the two, since each denies the other")
        if not (self.exact or self.tracking or self.stochastic or self.biased):
            expected = "exact=True, which is what a deterministic unbiased component is, or else tracking or biased"
            raise InputError("tags", "none of exact, tracking, stochastic, biased", expected)


def draws_random_numbers(component: object) -> bool:
    """Whether a component may draw; one that declares no tags is taken to."""
    tags = getattr(component, "tags", None)
    return tags is None or bool(tags.stochastic)
