"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .certificate import (
    Certificate as Certificate,
)
from .certificate import (
    certify as certify,
)
from .derivative_bounds import (
    BoundsDerivatives as BoundsDerivatives,
)
from .derivative_bounds import (
    BoundsGradientChange as BoundsGradientChange,
)
from .derivative_bounds import (
    DerivativeNorms as DerivativeNorms,
)
from .derivative_bounds import (
    RowNorms as RowNorms,
)
from .nearby_policies import (
    NearbyPolicies as NearbyPolicies,
)
