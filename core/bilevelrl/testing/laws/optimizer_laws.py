"""The laws of an upper-level optimizer: it descends, and keeps all memory in the state that it returns."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import numpy as np

from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, HyperGradient, OptimizerState, Status
from bilevelrl.testing.exact import point_of
from bilevelrl.testing.law import law
from bilevelrl.testing.question import rng_of
from bilevelrl.testing.snapshots import arrays_of, through_a_file
from bilevelrl.testing.violation import expect, expect_close, expect_same
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import kind_words

OPTIMIZER = Kind.UPPER_LEVEL_OPTIMIZER
STEPS = 5
LONG = 400


def hyper_of(gradient: Array, share: float = 0.5) -> HyperGradient:
    """A hyper-gradient whose direct part is a share of the whole."""
    direct = share * gradient
    return HyperGradient(direct, gradient - direct, 0.0, None, Cost(), Status.CONVERGED)


def _gradients(x: Array, count: int) -> list[Array]:
    rng = rng_of(11)
    return [rng.normal(size=x.size) for _ in range(count)]


def _walk(subject: Any, x: Array, gradients: list[Array], state: Any = None) -> tuple[list[Array], Any]:
    """The points after each step, and the last state."""
    state, points = subject.init(x) if state is None else state, []
    for gradient in gradients:
        x, state = _step(subject, x, hyper_of(gradient), state)
        points.append(x)
    return points, state


def _step(subject: Any, x: Array, hyper: HyperGradient, state: Any) -> tuple[Array, Any]:
    answer = subject.update(x, hyper, state)
    is_pair = isinstance(answer, tuple) and len(answer) == 2
    expect("the answer of update", is_pair, expected="(x, state)", came=kind_words(answer))
    moved, after = answer
    expect("the state", isinstance(after, OptimizerState), expected="an OptimizerState", came=kind_words(after))
    expect_same("the shape of x", np.array(np.shape(moved)), np.array(x.shape))
    return moved, after


@law(OPTIMIZER)
def zero_gradient_moves_nothing(subject: Any, problem: BilevelProblem) -> None:
    """From a fresh state a gradient of zero does not change x: stationary points are fixed points."""
    x = point_of(problem)
    moved, _ = _step(subject, x, hyper_of(np.zeros_like(x)), subject.init(x))
    expect_close("x after a zero gradient", moved, x, 1e-15 * (1 + np.abs(x)))


@law(OPTIMIZER)
def first_step_descends(subject: Any, problem: BilevelProblem) -> None:
    """The first step has a negative inner product with the gradient: `⟨x' − x, g⟩ < 0`."""
    x = point_of(problem)
    for gradient in _gradients(x, 3):
        moved, _ = _step(subject, x, hyper_of(gradient), subject.init(x))
        slope = float((moved - x) @ gradient)
        expect("⟨x' − x, g⟩", slope < 0, expected="less than 0", came=slope)


@law(OPTIMIZER, examples=0.5)
def approaches_a_minimum(subject: Any, problem: BilevelProblem) -> None:
    """On `½‖x − x̂‖²`, `‖x − x̂‖∞ = ¼`, hundreds of steps end nearer to x̂ or close to it, or are still moving.

    Step sizes differ by orders of magnitude, so the required distance is small. But the steps must not have a finite
    sum (Robbins and Monro 1951): the last quarter moves at least a hundredth as far as the first.
    """
    x = point_of(problem)
    target = x + 0.25 * np.where(np.arange(x.size) % 2, -1.0, 1.0)
    distances, state, points = [float(np.linalg.norm(x - target))], subject.init(x), [x]
    for _ in range(LONG):
        x, state = _step(subject, x, hyper_of(x - target), state)
        points.append(x)
        distances.append(float(np.linalg.norm(x - target)))
    began, ended = distances[0], distances[-1]
    expect(f"the distance after {LONG} steps", ended < max(began, 0.01), expected=f"less than {began:.3g}", came=ended)
    quarter = LONG // 4
    first, last = (float(np.linalg.norm(points[k + quarter] - points[k])) for k in (0, LONG - quarter))
    goes_on = ended < 0.5 * began or last >= 0.01 * first
    expect("the length of the last quarter of the steps", goes_on, expected=f"at least {0.01 * first:.3g}", came=last)


@law(OPTIMIZER)
def the_whole_gradient_is_used(subject: Any, problem: BilevelProblem) -> None:
    """The step depends on `direct + implicit`, not on the two parts separately."""
    x = point_of(problem)
    (gradient,) = _gradients(x, 1)
    expected, _ = _step(subject, x, hyper_of(gradient, 0.5), subject.init(x))
    for share in (0.0, 1.0):
        came, _ = _step(subject, x, hyper_of(gradient, share), subject.init(x))
        expect_close(f"x with a share of {share:g} in the direct part", came, expected, 1e-12 * (1 + np.abs(expected)))


@law(OPTIMIZER)
def relabelling_coordinates_permutes_the_step(subject: Any, problem: BilevelProblem) -> None:
    """Relabelled coordinates of x give the same steps in the new order."""
    x = point_of(problem)
    order = np.arange(x.size)[::-1]
    gradients = _gradients(x, STEPS)
    expected, _ = _walk(subject, x, gradients)
    came, _ = _walk(subject, x[order].copy(), [g[order].copy() for g in gradients])
    for step, (after, wanted) in enumerate(zip(came, expected, strict=True), start=1):
        expect_close(f"x after step {step}", after, wanted[order], 1e-12 * (1 + np.abs(wanted[order])))


@law(OPTIMIZER)
def steps_are_counted(subject: Any, problem: BilevelProblem) -> None:
    """`state.steps` is 0 at first and grows by one with each step."""
    x = point_of(problem)
    state = subject.init(x)
    expect("state.steps before the first step", state.steps == 0, expected=0, came=state.steps)
    for count, gradient in enumerate(_gradients(x, STEPS), start=1):
        x, state = _step(subject, x, hyper_of(gradient), state)
        expect(f"state.steps after step {count}", state.steps == count, expected=count, came=state.steps)


@law(OPTIMIZER)
def inputs_are_not_mutated(subject: Any, problem: BilevelProblem) -> None:
    """A step does not change the given x, gradient and state."""
    x = point_of(problem).copy()
    state = subject.init(x)
    for gradient in _gradients(x, STEPS):
        hyper = hyper_of(gradient)
        inputs = {"x": x, "hyper": hyper, "state": state}
        before = {f"{label}{path}": (a, a.copy()) for label, v in inputs.items() for path, a in arrays_of(v)}
        steps = state.steps
        x, state = _step(subject, x, hyper, state)
        for path, (array, copied) in before.items():
            expect_same(f"{path} after the step", array, copied)
        expect("state.steps of the state given", inputs["state"].steps == steps, expected=steps, came=state.steps)


@law(OPTIMIZER)
def same_key_same_answer(subject: Any, problem: BilevelProblem) -> None:
    """Equal x, gradients and states give equal steps, bit for bit, after any other calls."""
    x = point_of(problem)
    gradients = _gradients(x, STEPS)
    expected = copy.deepcopy(_walk(subject, x, gradients)[0])
    _walk(subject, x + 1.0, gradients[::-1])
    for step, (came, wanted) in enumerate(zip(_walk(subject, x, gradients)[0], expected, strict=True), start=1):
        expect_same(f"x after step {step}, repeated", came, wanted)


@law(OPTIMIZER)
def calls_are_independent(subject: Any, problem: BilevelProblem) -> None:
    """Two interleaved runs give the same as two separate runs: all memory is in the state."""
    x = point_of(problem)
    first, second = _gradients(x, STEPS), [-2.0 * g for g in _gradients(x, STEPS)]
    alone = copy.deepcopy(_walk(subject, x, first)[0])
    here, there, state, other = x, x + 1.0, subject.init(x), subject.init(x + 1.0)
    for step, (gradient, another) in enumerate(zip(first, second, strict=True)):
        here, state = _step(subject, here, hyper_of(gradient), state)
        there, other = _step(subject, there, hyper_of(another), other)
        expect_same(f"x after step {step + 1}, interleaved with another run", here, alone[step])


@law(OPTIMIZER)
def saved_and_restored_continues_identically(subject: Any, problem: BilevelProblem) -> None:
    """A state restored from a file (a count and arrays) continues like the state itself, bit for bit."""
    x = point_of(problem)
    gradients = _gradients(x, 2 * STEPS)
    before, state = _walk(subject, x, gradients[:STEPS])
    restored = attrs.evolve(state, arrays=through_a_file(**state.arrays))
    expected, _ = _walk(subject, before[-1], gradients[STEPS:], state)
    came, _ = _walk(subject, before[-1], gradients[STEPS:], restored)
    for step, (after, wanted) in enumerate(zip(came, expected, strict=True), start=1):
        expect_same(f"x {step} steps after the file", after, wanted)


@law(OPTIMIZER, examples=0.5)
def memory_layout_does_not_matter(subject: Any, problem: BilevelProblem) -> None:
    """Strided and read-only arrays of the same numbers give the same step."""
    x = point_of(problem)
    (gradient,) = _gradients(x, 1)
    expected, _ = _step(subject, x, hyper_of(gradient), subject.init(x))
    wide = np.repeat(x, 2)
    strided = wide[::2]
    strided.flags.writeable = False
    hyper = hyper_of(gradient)
    for array in (hyper.direct, hyper.implicit, hyper.gradient):
        array.flags.writeable = False
    came, _ = _step(subject, strided, hyper, subject.init(strided))
    expect_close("x after a step", came, expected, 1e-14 * (1 + np.abs(expected)))


@law(OPTIMIZER, examples=0.25)
def failure_is_reported(subject: Any, problem: BilevelProblem) -> None:
    """A gradient that is not finite raises no error and is not hidden: the next x is not finite or has not moved."""
    x = point_of(problem)
    gradient = np.full_like(x, np.nan)
    with np.errstate(all="ignore"):
        moved, _ = _step(subject, x, hyper_of(gradient), subject.init(x))
    shown = not np.isfinite(moved).all() or bool((moved == x).all())
    expect("x after a gradient of NaN", shown, expected="not finite, or unchanged", came=moved)


@law(OPTIMIZER, examples=0.25)
def answer_is_float64(subject: Any, problem: BilevelProblem) -> None:
    """x and the state's arrays stay float64."""
    x = point_of(problem)
    points, state = _walk(subject, x, _gradients(x, STEPS))
    for name, array in [("x", points[-1]), *arrays_of(state, "state")]:
        fits = array.dtype == np.float64 or array.dtype.kind in "iu"
        expect(f"the type of {name}", fits, expected="float64", came=str(array.dtype))
