"""Products by whichever library: the same numbers for every layout, and never a silent conversion."""

import numpy as np
import pytest
import scipy.sparse

from bilevelrl.linear.products import LARGE, times
from bilevelrl.testing.rounding import EPSILON

LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "neither": lambda matrix: np.repeat(matrix, 2, axis=1)[:, ::2],
    "sparse": scipy.sparse.csr_array,
    "read-only": lambda matrix: np.lib.stride_tricks.as_strided(matrix, writeable=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(3, 4), (320, 290), (290, 320), (1, LARGE), pytest.param((LARGE, 1), marks=pytest.mark.slow)]
)
def test_every_layout_gives_the_same_product(layout, shape):
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=shape), rng.normal(size=shape[1])
    expected = np.einsum("ij,j->i", matrix, vector)
    bound = 4 * shape[1] * EPSILON * np.abs(matrix).max() * np.abs(vector).max()
    came = times(LAYOUTS[layout](matrix), vector)
    assert came == pytest.approx(expected, rel=0, abs=bound)
    came[:] = 0.0  # its own memory, which the caller may overwrite
    assert times(LAYOUTS[layout](matrix), vector) == pytest.approx(expected, rel=0, abs=bound)


@pytest.mark.parametrize("vector", [np.full(300, 1.0 + 2.0j), np.ones(300, dtype=np.float32), np.ones((300, 2))])
def test_what_is_no_vector_of_floats_is_numpys(vector):
    """Complex steps pass through; nothing is rounded or flattened on the way."""
    matrix = np.random.default_rng(0).normal(size=(300, 300))
    assert (times(matrix, vector) == matrix.dot(vector)).all()


def test_a_value_that_is_not_finite_passes_through():
    """NaN must reach the status."""
    matrix = np.ones((300, 300))
    matrix[3, 4] = np.nan
    assert np.isnan(times(matrix, np.zeros(300))[3])
