"""Whatever a user passes, in Python or on the command line: an answer, or one sentence; never somebody else's error.

The catalogue of mistakes that people make is in `test_bad_input`; here are those that nobody thought of.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, settings, strategies as st

import bilevelrl as bl
from bilevelrl.cli import main

S, A = 3, 2
KERNEL = np.full((S, A, S), 1.0 / S)
PROBLEM = bl.BilevelProblem(
    bl.ParametricMDP(KERNEL, bl.parametric.TabularReward(np.zeros((S, A))), 0.9, 1.0),
    bl.objectives.QuadraticObjective(),
    name="small",
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.just(10**400)
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.dates()
    | st.sampled_from([np.float32(0.5), np.int8(1), np.datetime64("nat"), np.array(0.5), object(), {}, {1: 2}, set()])
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner), max_leaves=8)
DTYPES = ["f8", "f4", "f2", "i4", "u1", "?", "c16", "U3", "S3", "O", "M8[s]", "m8[s]", "i4,f8"]
arrays = st.builds(
    lambda shape, dtype, order: np.zeros(shape, dtype=np.dtype(dtype), order=order),
    st.lists(st.integers(0, 3), max_size=4).map(tuple),
    st.sampled_from(DTYPES),
    st.sampled_from("CF"),
)


def told_in_one_sentence(error: bl.InputError) -> None:
    sentence = str(error)
    assert "\n" not in sentence
    assert "np." not in sentence, "a repr of NumPy's is no language for a person"
    assert len(sentence) < 300


@given(x=anything | arrays)
def test_any_x_is_a_point_or_told(x: Any) -> None:
    try:
        point = PROBLEM.point(x)
    except bl.InputError as error:
        told_in_one_sentence(error)
    else:
        assert (point.shape, point.dtype) == ((S * A,), np.float64)
        assert np.isfinite(point).all()


@given(field=st.sampled_from(["transitions", "rewards", "initial", "reference"]), value=anything | arrays)
def test_any_table_makes_an_mdp_or_is_told(field: str, value: Any) -> None:
    fields = {"transitions": KERNEL, "rewards": np.zeros((S, A)), "discount": 0.9, "temperature": 1.0}
    try:
        mdp = bl.SoftMDP(**(fields | {field: value}))
    except bl.InputError as error:
        told_in_one_sentence(error)
    else:
        assert np.isfinite(bl.mdp.soft_bellman(mdp, np.zeros(S))).all()


@given(field=st.sampled_from(["discount", "temperature"]), value=anything | arrays)
def test_any_number_makes_an_mdp_or_is_told(field: str, value: Any) -> None:
    try:
        mdp = bl.SoftMDP(KERNEL, np.zeros((S, A)), **({"discount": 0.9, "temperature": 1.0} | {field: value}))
    except bl.InputError as error:
        told_in_one_sentence(error)
    else:
        assert 0 <= mdp.discount < 1
        assert 0 < mdp.temperature < np.inf


few = scalars.filter(lambda value: not (type(value) is int and value > 3))  # a loop of 10^400 would not end


@given(iterations=few | st.just(1), seed=scalars | st.just(0), tolerance=scalars | st.just(0.0))
def test_any_setting_of_the_loop_is_taken_or_told(iterations: Any, seed: Any, tolerance: Any) -> None:
    try:
        run = bl.algorithm("m-sobirl").run(PROBLEM, iterations=iterations, seed=seed, tolerance=tolerance)
    except bl.InputError as error:
        told_in_one_sentence(error)
    else:
        assert run.last.iteration <= iterations


@given(
    make=st.sampled_from([bl.problem, bl.algorithm, bl.lower_level_solver, bl.upper_level_optimizer]),
    name=anything,
)
def test_any_name_is_registered_or_told(make: Any, name: Any) -> None:
    with pytest.raises(bl.InputError) as caught:
        make(name)
    told_in_one_sentence(caught.value)


PARTS: list[Any] = [
    bl.parametric.TabularReward,
    bl.parametric.StateReward,
    lambda value: bl.parametric.StateReward(np.zeros((S, A)), value),
    lambda value: bl.parametric.LinearReward(np.zeros((S, A)), value),
    bl.parametric.SoftmaxTransitions,
    bl.parametric.SoftmaxInitial,
    bl.objectives.LogLikelihoodObjective,
    bl.objectives.WeightedSum,
    bl.problems.Ball,
    lambda value: bl.problems.Ball(1.0, value),
    lambda value: bl.Box(value, 1.0),
    lambda value: bl.Box(-1.0, value),
]


@given(
    part=st.sampled_from(PARTS),
    value=anything | arrays,
)
def test_any_argument_of_a_part_is_taken_or_told(part: Any, value: Any) -> None:
    try:
        made = part(value)
    except bl.InputError as error:
        told_in_one_sentence(error)
    else:
        assert made is not None


def exit_status_and_errors(*arguments: str) -> tuple[Any, str]:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0, errors.getvalue()


KEYS = ["step_size", "adjoint_step_size", "upper.decay_power", "problem.discount", "problem.instance", "lower.name"]
ODD_VALUES = ["true", "[]", "[[1], {a = 2}]", "{}", "'a'", '"', "1979-05-27", "\x00", "1\nb = 2"]
values = (
    st.text(max_size=8)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.sampled_from([*ODD_VALUES, "1" + "0" * 400, "1" + "0" * 5000])
)


@settings(max_examples=60)
@example(key="adjoint_step_size", value="1e153")  # a gradient whose square overflows
@given(key=st.sampled_from(KEYS) | st.text(max_size=8), value=values)
def test_any_set_is_taken_or_told_in_one_line(key: str, value: str) -> None:
    """A run of one update may fail (status 1: a step of 1e300); a traceback, or two lines, it may not print."""
    arguments = ["run", "synthetic-quadratic", "--iterations", "1", "--set", f"{key}={value}"]
    status, errors = exit_status_and_errors(*arguments)
    assert status in (0, 1, 2)
    if status == 2:
        (line,) = errors.splitlines()
        assert line.startswith("Error: ")


toml_values = st.sampled_from(
    ["true", "-1", "1.5", "nan", "'a'", "[]", "[[1]]", "{}", "{a = {b = 1}}", "1979-05-27", "0x1F", "1" + "0" * 5000]
)


@settings(max_examples=60)
@given(
    setting=st.sampled_from(["iterations", "seed", "tolerance", "problem", "algorithm", "lower"]),
    option=st.sampled_from(["name", "states", "discount", "bogus"]),
    first=toml_values,
    second=toml_values,
)
def test_any_toml_is_run_or_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, setting: str, option: str, first: str, second: str
) -> None:
    file = tmp_path_factory.mktemp("toml") / "experiment.toml"
    text = f"{setting} = {first}\n[problem]\nname = 'synthetic-quadratic'\n{option} = {second}\n"
    file.write_text(text.replace("name = 'synthetic-quadratic'\n", "") if option == "name" else text)
    status, errors = exit_status_and_errors("run", str(file), "--iterations", "1", "-a", "m-sobirl")
    assert status in (0, 2)
    if status == 2:
        (line,) = errors.splitlines()
        assert line.startswith("Error: ")


HARMLESS = {
    "float32": KERNEL.astype(np.float32),
    "float16": np.full((2, 1, 2), 0.5, np.float16),
    "integers": np.eye(S, dtype=np.int64)[:, None, :],
    "flags": np.eye(S, dtype=bool)[:, None, :],
    "Fortran order": np.asfortranarray(KERNEL),
    "every other entry": np.repeat(KERNEL, 2, axis=1)[:, ::2],
    "read-only": np.broadcast_to(1.0 / S, (S, A, S)),
    "big-endian": KERNEL.astype(">f8"),
    "lists": KERNEL.tolist(),
    "objects": KERNEL.astype(object),
    "masked, nothing hidden": np.ma.masked_array(KERNEL, mask=False),
    "one state": np.ones((1, 1, 1)),
    "sparse float32": scipy.sparse.csr_array(KERNEL.reshape(-1, S).astype(np.float32)),
    "sparse COO": scipy.sparse.coo_array(KERNEL.reshape(-1, S)),
    "sparse matrix": scipy.sparse.csc_matrix(KERNEL.reshape(-1, S)),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_kernel_is_taken_as_the_same_numbers(what: str) -> None:
    """Rows of float32 miss one by their rounding, which is no mistake of the user: they are scaled to sum to one."""
    given_kernel: Any = HARMLESS[what]
    make = bl.mdp.SparseTransitions if scipy.sparse.issparse(given_kernel) else bl.mdp.DenseTransitions
    transitions = make(given_kernel)
    rows = np.asarray(given_kernel.toarray() if scipy.sparse.issparse(given_kernel) else given_kernel, dtype=np.float64)
    rows = rows.reshape(-1, transitions.states)
    stored = np.array([transitions.expectation(unit).reshape(-1) for unit in np.eye(transitions.states)]).T
    np.testing.assert_allclose(stored, rows, rtol=1e-6 if "32" in what else 0)
    np.testing.assert_allclose(stored.sum(axis=1), 1.0, rtol=0, atol=1e-15 * transitions.states)


def test_rounding_of_float32_excuses_no_mistake() -> None:
    table = KERNEL.astype(np.float32)
    table[1, 0] *= 1.001
    with pytest.raises(bl.InputError, match=r"the sum of transitions\[1, 0, :\] is 1\.00"):
        bl.mdp.DenseTransitions(table)


def test_hidden_entry_of_a_masked_array_is_told() -> None:
    """NumPy would hand out what is under the mask."""
    x = np.ma.masked_array(np.zeros(S * A), mask=[0, 0, 0, 0, 1, 0])
    with pytest.raises(bl.InputError, match=r"x\[4\] is masked; expected a number"):
        PROBLEM.point(x)
