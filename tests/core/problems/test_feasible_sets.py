"""Projections onto closed convex sets: each law of a projection, for each set."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import EPSILON
from strategies import seeds


@st.composite
def drawn_sets(draw):
    """A set, whether a point is in it (to rounding of the numbers involved), two points of space, and a point of it."""
    rng, n = np.random.default_rng(draw(seeds)), draw(st.integers(1, 8))
    kind = draw(st.sampled_from(("free", "box", "half-open box", "ball", "ball around a point", "simplex")))
    x, y = rng.normal(size=(2, n)) * 10.0 ** rng.uniform(-3, 6, size=(2, 1))
    size = 10.0 ** rng.uniform(-3, 3)
    slack = 8 * n * EPSILON * (np.abs(x).max() + np.abs(y).max() + size)
    center = rng.normal(size=n)
    lower, upper = center - size, center + size * rng.random(n)
    inner = rng.normal(size=n)
    inner *= rng.random() / np.linalg.norm(inner)
    feasible_set, contains, member = {
        "free": (bl.problems.Free(), lambda p: True, y),
        "box": (
            bl.Box(lower, upper),
            lambda p: (lower <= p).all() and (p <= upper).all(),
            lower + (upper - lower) * rng.random(n),
        ),
        "half-open box": (bl.Box(0.0, np.inf), lambda p: (p >= 0).all(), np.abs(y)),
        "ball": (bl.problems.Ball(size), lambda p: np.linalg.norm(p) <= size + slack, size * inner),
        "ball around a point": (
            bl.problems.Ball(size, center),
            lambda p: np.linalg.norm(p - center) <= size + slack,
            center + size * inner,
        ),
        "simplex": (
            bl.problems.Simplex(size),
            lambda p: (p >= 0).all() and abs(p.sum() - size) <= slack,
            size * rng.dirichlet(np.ones(n)),
        ),
    }[kind]
    return feasible_set, contains, x, y, member, slack


@given(drawn_sets())
def test_a_projection_lies_in_the_set(drawn):
    feasible_set, contains, x, *_ = drawn
    assert isinstance(feasible_set, bl.problems.FeasibleSet)
    assert contains(feasible_set.project(x))


@given(drawn_sets())
def test_a_projection_is_the_nearest_point(drawn):
    """`⟨x − Πx, y − Πx⟩ ≤ 0` for every y of the set: the variational inequality that defines Π on a convex set."""
    feasible_set, _, x, _, member, slack = drawn
    nearest = feasible_set.project(x)
    product = float((x - nearest) @ (member - nearest))
    assert product <= slack * (np.abs(x - nearest).sum() + np.abs(member - nearest).sum())


@given(drawn_sets())
def test_a_projection_leaves_the_set_itself_alone(drawn):
    """Points of the set stay, and projecting twice is projecting once, to rounding."""
    feasible_set, _, x, _, member, slack = drawn
    once = feasible_set.project(x)
    assert feasible_set.project(member) == pytest.approx(member, rel=0, abs=slack)
    assert feasible_set.project(once) == pytest.approx(once, rel=0, abs=slack)


@given(drawn_sets())
def test_a_projection_brings_no_two_points_further_apart(drawn):
    """`‖Πx − Πy‖ ≤ ‖x − y‖`."""
    feasible_set, _, x, y, _, slack = drawn
    apart = np.linalg.norm(feasible_set.project(x) - feasible_set.project(y))
    assert apart <= np.linalg.norm(x - y) + x.size * slack


@given(drawn_sets())
def test_a_projection_does_not_write_to_its_argument(drawn):
    feasible_set, _, x, *_ = drawn
    before = x.copy()
    feasible_set.project(x)
    assert (x == before).all()


@given(st.integers(1, 8), st.floats(0.1, 10.0), seeds)
def test_the_simplex_takes_a_constant_off_and_keeps_its_total(n, total, seed):
    """`Π(x + c·1) = Π(x)` however large c, up to the digits that x loses by it."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=n) * 1024) / 1024  # so that adding 2^30 loses nothing
    simplex = bl.problems.Simplex(total)
    assert (simplex.project(x + 2.0**30) == simplex.project(x)).all()


@given(drawn_sets(), seeds)
def test_stationarity_is_the_length_of_a_projected_unit_step(drawn, seed):
    """`‖x − Π(x − g)‖₂`: zero where g is zero, at most `‖g‖₂` for x in the set, and `‖g‖₂` where the set is all."""
    feasible_set, _, _, _, member, slack = drawn
    gradient = np.random.default_rng(seed).normal(size=member.size)
    length = float(np.linalg.norm(gradient))
    measured = bl.problems.stationarity(feasible_set, member, gradient)
    step = np.linalg.norm(member - feasible_set.project(member - gradient))
    # Free measures ‖g‖ itself; member − (member − g) would have lost digits of it.
    assert measured == pytest.approx(float(step), rel=0, abs=4 * slack)
    assert measured <= length * (1 + 4 * EPSILON) + 4 * slack
    assert bl.problems.stationarity(feasible_set, member, 0 * gradient) <= 4 * slack
    assert bl.problems.stationarity(bl.problems.Free(), member, gradient) == pytest.approx(
        length, rel=4 * EPSILON * member.size
    )


def test_a_gradient_that_points_out_of_the_box_is_stationary():
    """At the bound that holds x back, a first-order stationary point of the set, not of the space."""
    assert bl.problems.stationarity(bl.Box(0.0, 1.0), np.array([1.0, 0.0]), np.array([-3.0, 2.0])) == 0.0


def test_a_vertex_of_the_simplex_is_where_a_steep_gradient_leads():
    assert bl.problems.Simplex(2.0).project(np.array([5.0, 0.0, -1.0])).tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bl.Box(1.0, 0.0), r"Box.lower is 1.0; expected at most Box.upper = 0.0"),
        (lambda: bl.Box([0.0, 2.0], [1.0, 1.0]), "expected at most Box.upper"),
        (lambda: bl.Box(np.nan, 1.0), "a bound of Box is nan; expected a number, or ±inf for no bound"),
        (lambda: bl.problems.Ball(0.0), "radius is 0.0; expected a finite number above 0"),
        (lambda: bl.problems.Ball(1.0, [np.inf]), r"Ball.center\[0\] is inf; expected a finite number"),
        (lambda: bl.problems.Simplex(-1.0), "total is -1.0; expected a finite number above 0"),
    ],
)
def test_a_set_that_cannot_be_is_refused(make, message):
    with pytest.raises(bl.InputError, match=message):
        make()
