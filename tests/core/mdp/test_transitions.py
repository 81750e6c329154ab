"""Transition kernels: the two storages are one kernel, and no invalid table becomes a kernel."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import EPSILON
from strategies import KERNELS, drawn_kernel, drawn_policy, seeds, stored_as

storages = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


@st.composite
def kernels(draw):
    """P (S, A, S), and a generator to go with it."""
    states, actions = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    kind, unreachable = draw(st.sampled_from(KERNELS)), draw(st.integers(0, states - 1))
    rng = np.random.default_rng(draw(seeds))
    return drawn_kernel(rng, kind, states, actions, unreachable), rng


def library(table, sparse):
    """The library's kernel of a table; dense or sparse as asked."""
    kernel = bl.SoftMDP(stored_as(table, sparse), np.zeros(table.shape[:2]), 0.5, 1.0).transitions
    assert isinstance(kernel, bl.mdp.SparseTransitions if sparse else bl.mdp.DenseTransitions)
    return kernel


@storages
@given(drawn=kernels())
def test_the_expectation_is_the_sum_over_successors(sparse, drawn):
    """`(P v)_sa = Σ_s' P_sas' v_s'`, in an array that the caller may overwrite."""
    table, rng = drawn
    kernel, values = library(table, sparse), rng.normal(size=table.shape[0])
    expected = np.einsum("sat,t->sa", table, values)
    rounding = 2 * table.shape[0] * EPSILON * np.abs(values).max()
    once = kernel.expectation(values)
    assert once == pytest.approx(expected, rel=0, abs=rounding)
    once[:] = np.nan
    assert kernel.expectation(values) == pytest.approx(expected, rel=0, abs=rounding)


@storages
@given(drawn=kernels())
def test_the_transpose_expectation_is_the_inflow(sparse, drawn):
    """`(Pᵀ c)_s' = Σ_sa P_sas' c_sa`, in an array that the caller may overwrite."""
    table, rng = drawn
    kernel, weights = library(table, sparse), rng.normal(size=table.shape[:2])
    expected = np.einsum("sat,sa->t", table, weights)
    rounding = 2 * table.shape[0] * table.shape[1] * EPSILON * np.abs(weights).sum()
    once = kernel.transpose_expectation(weights)
    assert once == pytest.approx(expected, rel=0, abs=rounding)
    once[:] = np.nan
    assert kernel.transpose_expectation(weights) == pytest.approx(expected, rel=0, abs=rounding)


@storages
@given(drawn=kernels())
def test_the_chain_of_a_policy_averages_over_its_actions(sparse, drawn):
    """`P^π_ss' = Σ_a π_sa P_sas'`; a sparse kernel's chain is sparse."""
    table, rng = drawn
    policy = drawn_policy(rng, *table.shape[:2])
    chain = library(table, sparse).under(policy)
    assert scipy.sparse.issparse(chain) is sparse
    dense = chain.toarray() if sparse else chain
    assert dense == pytest.approx(np.einsum("sa,sat->st", policy, table), rel=0, abs=2 * table.shape[1] * EPSILON)


@storages
@given(drawn=kernels())
def test_rows_and_stored_entries_rebuild_the_kernel(sparse, drawn):
    """`row(s, a)` and `stored()` name every positive entry once, in row-major order, and no other."""
    table, _ = drawn
    kernel = library(table, sparse)
    by_rows = np.zeros_like(table)
    for s, a in np.ndindex(table.shape[:2]):
        successors, probabilities = kernel.row(s, a)
        by_rows[s, a, successors] = probabilities
    assert (by_rows == table).all()
    rows, successors, probabilities = kernel.stored()
    expected_rows, expected_successors = np.nonzero(table.reshape(-1, table.shape[2]))
    assert (rows == expected_rows).all()
    assert (successors == expected_successors).all()
    assert (probabilities == table[table > 0]).all()


def test_stored_entries_come_in_row_major_order_whatever_the_order_in_the_sparse_array():
    """SciPy lets a CSR array list a row's columns in any order, and twice; features are matched to entries by order."""
    data, indices = [0.25, 0.5, 0.25, 0.4, 0.6], [1, 0, 1, 1, 0]
    matrix = scipy.sparse.csr_array((data, indices, [0, 3, 5]), shape=(2, 2))
    kernel = bl.mdp.SparseTransitions(matrix)
    rows, successors, probabilities = kernel.stored()
    assert rows.tolist() == [0, 0, 1, 1]
    assert successors.tolist() == [0, 1, 0, 1]
    assert probabilities.tolist() == [0.5, 0.5, 0.6, 0.4]
    assert matrix.data.tolist() == data  # the caller's array is not rearranged


def test_stored_zeros_of_a_sparse_array_are_no_successors():
    """A zero that is stored says what one that is not says: `row` and `stored` leave both out."""
    matrix = scipy.sparse.csr_array(([1.0, 0.0, 1.0], [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    kernel = bl.mdp.SparseTransitions(matrix)
    assert [array.tolist() for array in kernel.stored()] == [[0, 1], [0, 1], [1.0, 1.0]]
    assert [array.tolist() for array in kernel.row(0, 0)] == [[0], [1.0]]


@storages
@given(drawn=kernels())
def test_the_expectation_and_its_transpose_are_adjoint(sparse, drawn):
    """`⟨c, P v⟩ = ⟨Pᵀ c, v⟩`: what makes reverse mode right."""
    table, rng = drawn
    kernel = library(table, sparse)
    values, weights = rng.normal(size=table.shape[0]), rng.normal(size=table.shape[:2])
    one = float((weights * kernel.expectation(values)).sum())
    other = float(kernel.transpose_expectation(weights) @ values)
    size = float(np.abs(weights).sum() * np.abs(values).max())
    assert one == pytest.approx(other, rel=0, abs=4 * table.size * EPSILON * size)


def test_a_dense_kernel_cannot_be_written_to():
    """Components share kernels; a write would change another's."""
    kernel = bl.mdp.DenseTransitions(np.eye(2)[:, None, :])
    with pytest.raises(ValueError, match="read-only"):
        kernel.probabilities[0, 0, 0] = 0.5


def test_a_transitions_object_is_taken_as_it_is():
    kernel = bl.mdp.DenseTransitions(np.eye(2)[:, None, :])
    assert bl.SoftMDP(kernel, np.zeros((2, 1)), 0.5, 1.0).transitions is kernel


def test_a_kernel_introduces_itself_by_its_sizes():
    assert repr(bl.mdp.DenseTransitions(np.ones((1, 3, 1)))) == "DenseTransitions(states=1, actions=3)"


HALF = [[[0.5, 0.5]], [[0.0, 1.0]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 0, 1, 0.4), r"the sum of transitions\[0, 0, :\] is 0\.9; expected 1 within 1e-8"),
        ((1, 0, 0, -0.1), r"transitions\[1, 0, 0\] is -0\.1; expected a probability"),
    ],
)
@storages
def test_a_table_that_is_no_kernel_is_refused_with_the_worst_entry(change, message, sparse):
    s, a, t, probability = change
    table = np.array(HALF)
    table[s, a, t] = probability
    with pytest.raises(bl.InputError, match=message):
        library(table, sparse)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@storages
def test_a_probability_that_is_not_finite_is_refused(value, sparse):
    table = np.array(HALF)
    table[1, 0, 1] = value
    with pytest.raises(bl.InputError, match=rf"transitions\[1, 0, 1\] is {value}; expected .*finite"):
        library(table, sparse)


@pytest.mark.parametrize("shape", [(2, 1), (2, 1, 3), (0, 1, 0), (2, 0, 2)])
def test_an_array_of_another_shape_is_refused(shape):
    with pytest.raises(bl.InputError, match="the shape of transitions"):
        bl.mdp.DenseTransitions(np.ones(shape))


@pytest.mark.parametrize("shape", [(3, 2), (0, 2), (2, 0)])
def test_a_sparse_array_of_another_shape_is_refused(shape):
    with pytest.raises(bl.InputError, match=r"the shape of transitions .* rows a multiple of columns"):
        bl.mdp.SparseTransitions(scipy.sparse.csr_array(shape))


def test_sparse_storage_asks_for_a_sparse_array():
    with pytest.raises(bl.InputError, match="transitions is a ndarray; expected a scipy sparse array"):
        bl.mdp.SparseTransitions(np.eye(2))


def test_words_are_no_kernel():
    with pytest.raises(bl.InputError, match="transitions is a str; expected an array of real numbers"):
        bl.mdp.DenseTransitions("deterministic")


def csr(corrupt):
    """A valid kernel of 6 states and 2 actions, after something happened to its arrays."""
    rng = np.random.default_rng(0)
    matrix = scipy.sparse.csr_array(rng.dirichlet(np.ones(6), size=12))
    corrupt(matrix)
    return matrix


def put(name, place, value):
    def corrupt(matrix):
        array = getattr(matrix, name).copy()
        array[place] = value
        setattr(matrix, name, array)

    return corrupt


CORRUPT = {
    "an index beyond the states": csr(put("indices", 0, 6)),
    "an index far beyond": csr(put("indices", 3, 10**8)),
    "a negative index": csr(put("indices", 0, -1)),
    "a pointer beyond the entries": csr(put("indptr", 1, 99)),
    "a pointer that falls": csr(put("indptr", 3, 0)),
    "a last pointer of zero": csr(put("indptr", -1, 0)),
    "a first pointer that is not zero": csr(put("indptr", 0, 1)),
    "indices that are no integers": csr(lambda matrix: setattr(matrix, "indices", matrix.indices + 0.5)),
    "too few pointers": csr(lambda matrix: setattr(matrix, "indptr", matrix.indptr[:-1])),
    "too few indices": csr(lambda matrix: setattr(matrix, "indices", matrix.indices[:-1])),
}
for name, index in (("row", 12), ("col", 6)):
    CORRUPT[f"a {name} beyond a table of coordinates"] = csr(lambda matrix: None).tocoo()
    put(name, 2, index)(CORRUPT[f"a {name} beyond a table of coordinates"])
for form in ("csc", "bsr"):
    CORRUPT[f"an index beyond the {form} array"] = csr(lambda matrix: None).asformat(form)
    put("indices", 0, 12)(CORRUPT[f"an index beyond the {form} array"])


@pytest.mark.parametrize("what", CORRUPT)
def test_a_sparse_array_that_is_not_one_is_refused_before_anything_follows_its_indices(what):
    """They would be read from somebody else's memory: wrong numbers, or no process any more."""
    sentence = r"^transitions is a sparse array that is not one \(.+\); expected indices within its shape"
    with pytest.raises(bl.InputError, match=sentence):
        bl.mdp.SparseTransitions(CORRUPT[what])


def test_sparse_features_are_looked_through_as_well():
    features = scipy.sparse.csr_array(np.ones((8, 3)))
    features.indices = features.indices.copy()
    features.indices[0] = 10**6
    with pytest.raises(bl.InputError, match=r"^features is a sparse array that is not one"):
        bl.parametric.LinearReward(np.zeros((4, 2)), features)


def test_a_sparse_vector_is_no_kernel():
    with pytest.raises(bl.InputError, match=r"the shape of transitions is \(12,\); expected two lengths"):
        bl.mdp.SparseTransitions(scipy.sparse.coo_array(np.ones(12)))


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dok", "lil", "bsr", "dia"])
def test_every_format_of_scipy_is_taken(form):
    table = csr(lambda matrix: None)
    taken = bl.mdp.SparseTransitions(table.asformat(form))
    assert taken.probabilities.toarray() == pytest.approx(table.toarray(), rel=4 * EPSILON)
