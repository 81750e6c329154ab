"""Upper-level optimisers: three correct ones, and ones with a single fault each."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from kit.planted.solvers import written

Moved = tuple[bl.Array, bl.OptimizerState]


@attrs.frozen
class Descent:
    """`x ← x − βg`."""

    name: ClassVar[str] = "planted-descent"

    step_size: float = 0.1

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Moved:
        return x - self.step(self.gradient(hyper), state), bl.OptimizerState(state.steps + 1)

    def gradient(self, hyper: bl.HyperGradient) -> bl.Array:
        return hyper.gradient

    def step(self, gradient: bl.Array, state: bl.OptimizerState) -> bl.Array:
        return self.step_size * gradient


@attrs.frozen
class Momentum:
    """`m ← ηm + g`, `x ← x − βm`."""

    name: ClassVar[str] = "planted-momentum"

    step_size: float = 0.05
    decay: float = 0.5

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState(0, {"momentum": np.zeros_like(x)})

    def update(self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Moved:
        momentum = self.decay * state.arrays["momentum"] + hyper.gradient
        return x - self.step_size * momentum, bl.OptimizerState(state.steps + 1, {"momentum": momentum})


@attrs.frozen
class Adam:
    """Running moments, corrected for their start at zero (Kingma and Ba, ICLR 2015)."""

    name: ClassVar[str] = "planted-adam"

    step_size: float = 0.02
    decays: tuple[float, float] = (0.9, 0.999)

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState(0, {"mean": np.zeros_like(x), "square": np.zeros_like(x)})

    def update(self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Moved:
        (first, second), gradient, steps = self.decays, hyper.gradient, state.steps + 1
        mean = first * state.arrays["mean"] + (1.0 - first) * gradient
        square = second * state.arrays["square"] + (1.0 - second) * gradient**2
        corrected = mean / (1.0 - first**steps), square / (1.0 - second**steps)
        step = self.step_size * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        return x - step, bl.OptimizerState(steps, {"mean": mean, "square": square})


class Ascends(Descent):
    def gradient(self, hyper):
        return -hyper.gradient


class IgnoresTheImplicitPart(Descent):
    def gradient(self, hyper):
        return hyper.direct


class IgnoresTheDirectPart(Descent):
    def gradient(self, hyper):
        return hyper.implicit


class StateNotAdvanced(Momentum):
    def update(self, x, hyper, state):
        return super().update(x, hyper, state)[0], state


class StepsForgotten(Momentum):
    def update(self, x, hyper, state):
        moved, after = super().update(x, hyper, state)
        return moved, attrs.evolve(after, steps=0)


@attrs.frozen
class MomentumInTheObject(Descent):
    memory: dict[str, Any] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def gradient(self, hyper):
        last = self.memory.get("momentum", np.zeros_like(hyper.gradient))
        last = last if last.shape == hyper.gradient.shape else np.zeros_like(hyper.gradient)
        momentum = self.memory["momentum"] = 0.5 * last + hyper.gradient
        return momentum


class MutatesX(Descent):
    def update(self, x, hyper, state):
        moved, after = super().update(x, hyper, state)
        written(x, moved)
        return x, after


class MutatesTheGradient(Descent):
    """Clips the gradient where it stands."""

    def gradient(self, hyper):
        clipped = np.clip(hyper.gradient, -1e-3, 1e-3)
        gradient = hyper.gradient.copy()
        written(hyper.gradient, clipped)
        return gradient


class MutatesTheState(Momentum):
    def update(self, x, hyper, state):
        moved, after = super().update(x, hyper, state)
        written(state.arrays["momentum"], after.arrays["momentum"])
        return moved, after


class SharedMoments(Adam):
    """Every run's moments live in the same two arrays."""

    SHARED: ClassVar[dict[int, tuple[bl.Array, bl.Array]]] = {}

    def init(self, x):
        mean, square = self.SHARED.setdefault(x.size, (np.zeros(x.size), np.zeros(x.size)))
        return bl.OptimizerState(0, {"mean": mean, "square": square})

    def update(self, x, hyper, state):
        moved, after = super().update(x, hyper, state)
        for name, array in after.arrays.items():
            written(state.arrays[name], array)
        return moved, bl.OptimizerState(after.steps, state.arrays)


class MovesAtZeroGradient(Descent):
    """Weight decay that nobody asked for."""

    def update(self, x, hyper, state):
        moved, after = super().update(x, hyper, state)
        return moved - 0.01 * x, after


class UnitStepsAtZeroGradient(Descent):
    """`g/‖g‖` with nothing against the zero."""

    def step(self, gradient, state):
        with np.errstate(all="ignore"):
            return self.step_size / np.sqrt(state.steps + 1) * gradient / np.linalg.norm(gradient)


class SinglePrecision(Descent):
    def update(self, x, hyper, state):
        moved, after = super().update(x, hyper, state)
        return moved.astype(np.float32), after


class FirstCoordinateTwice(Descent):
    def step(self, gradient, state):
        step = super().step(gradient, state)
        step[0] *= 2.0
        return step


class LastCoordinateNeverMoves(Descent):
    def step(self, gradient, state):
        step = super().step(gradient, state)
        step[-1] = 0.0
        return step


class StopsShort(Descent):
    """Halves the step size every step, so that the way it can go is finite."""

    def step(self, gradient, state):
        return 0.1 * super().step(gradient, state) * 0.5**state.steps


class Overshoots(Descent):
    """Steps more than twice as long as to the minimum of a curvature of one."""

    def step(self, gradient, state):
        return 22.0 * super().step(gradient, state)


class DrawsACoordinate(Descent):
    """Moves along a random half of the coordinates, and an optimiser has no generator to draw from."""

    def step(self, gradient, state):
        return super().step(gradient, state) * (np.random.random(gradient.size) < 0.5)  # noqa: NPY002
