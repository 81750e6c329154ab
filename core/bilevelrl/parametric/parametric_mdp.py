"""The follower's MDP as a function of x, composed of parametric and fixed parts."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy, Occupancy, SampledOccupancy
from bilevelrl.parametric.parts import ParametricArray, ParametricTransitions
from bilevelrl.sampling.tabular_simulator import TabularSimulator
from bilevelrl.validation.arrays import Array, all_finite, as_array
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.fields import is_real


@attrs.frozen(eq=False, slots=False)
class ParametricMDP:
    """The follower's MDP as a function of x: `SupportsModel`.

    Args:
        transitions: P: a `ParametricTransitions`, or fixed (anything `as_transitions` takes).
        rewards: r: a `ParametricArray` (S, A), or a fixed array.
        discount: γ in [0, 1).
        temperature: τ > 0.
        initial: ρ: a `ParametricArray` (S,), a fixed distribution, or None for uniform.
        reference: μ (S, A) > 0, or None for Shannon entropy.
        example: a point (n,) at which every part is defined; shapes and values are checked there, once. Default: zero.

    Raises:
        InputError: if the parts disagree on shapes or on n, or none depends on x.
    """

    occupancy_forms: ClassVar[tuple[type, ...]] = (DenseOccupancy, SampledOccupancy)

    transitions: Any
    rewards: Any
    discount: float = attrs.field(validator=is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(validator=is_real(above=0.0))
    initial: Any = None
    reference: Any = None
    example: Any = None

    parts: Any = attrs.field(init=False, repr=False)
    """The fields that depend on x, by name."""
    dimension: int = attrs.field(init=False)
    """n, the length of x."""
    base: SoftMDP = attrs.field(init=False, repr=False)
    """The model at `example`; every other model shares its fixed fields."""

    @parts.default
    def _parts(self) -> dict[str, Any]:
        kinds: dict[str, Any] = {
            "transitions": ParametricTransitions,
            "rewards": ParametricArray,
            "initial": ParametricArray,
        }
        return {name: getattr(self, name) for name, kind in kinds.items() if isinstance(getattr(self, name), kind)}

    @dimension.default
    def _common_dimension(self) -> int:
        sizes = {name: part.dimension for name, part in self.parts.items()}
        if not sizes:
            raise InputError("ParametricMDP", "independent of x", "at least one parametric part")
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            raise InputError("the dimension of the parts", told, "one n; use Slice to share x among parts")
        dimension: int = next(iter(sizes.values()))
        return dimension

    @base.default
    def _validated(self) -> SoftMDP:
        n = self.dimension
        x = np.zeros(n) if self.example is None else as_array("example", self.example, (n,))
        fixed = {"transitions": self.transitions, "rewards": self.rewards, "initial": self.initial}
        values = {name: self.parts[name](x) if name in self.parts else fixed[name] for name in fixed}
        return SoftMDP(discount=self.discount, temperature=self.temperature, reference=self.reference, **values)

    def __getstate__(self) -> dict[str, Any]:
        # A fixed P may have been given in another form than the one that is kept: only one of them is pickled.
        known = {} if "transitions" in self.parts else {"transitions": self.base.transitions}
        return {**self.__dict__, **known}

    def model(self, x: Array) -> SoftMDP:
        """`M_τ(x)`. Raises `InputError` if x has the wrong length or is not finite."""
        shape = (self.dimension,)
        if not (isinstance(x, np.ndarray) and x.dtype == np.float64 and x.shape == shape and all_finite(x)):
            x = as_array("x", x, shape)
        return self.base.replace(**{name: part(x) for name, part in self.parts.items()})

    def simulator(self, x: Array) -> TabularSimulator:
        """A sampler of `M_τ(x)`: the same problem for components that use no transition model."""
        return TabularSimulator(self.model(x))

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄ + J_Pᵀ P̄ + J_ρᵀ ρ̄` at x."""
        if x.shape != (self.dimension,):
            as_array("x", x, (self.dimension,))
        measure = occupancy.dense(self.base.states, self.base.actions)
        gradient: Array | None = None
        for name, part in self.parts.items():
            if name == "transitions":
                if measure.continuation is None:
                    raise InputError(
                        "occupancy.continuation",
                        "None",
                        "γV (S,), since the transitions depend on x and this occupancy differentiates rewards only",
                    )
                term = part.pullback(x, measure.weights, measure.continuation)
            elif name == "rewards":
                term = part.pullback(x, measure.weights)
            elif measure.initial is not None:
                term = part.pullback(x, measure.initial)
            else:
                continue
            gradient = term if gradient is None else gradient + term
        return np.zeros(self.dimension) if gradient is None else gradient
