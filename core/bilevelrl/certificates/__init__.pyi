"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .certificate import (
    Certificate as Certificate,
    certify as certify,
)
from .derivative_bounds import (
    BoundsDerivatives as BoundsDerivatives,
    BoundsGradientChange as BoundsGradientChange,
    DerivativeNorms as DerivativeNorms,
    RowNorms as RowNorms,
)
from .nearby_policies import (
    NearbyPolicies as NearbyPolicies,
)
from .objective_bounds import gradient_change as gradient_change
from .part_norms import derivative_norms as derivative_norms
