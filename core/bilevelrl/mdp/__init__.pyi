"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .bellman import (
    adjoint_occupancy as adjoint_occupancy,
    adjoint_right_hand_side as adjoint_right_hand_side,
    discounted_occupancy as discounted_occupancy,
    linearized_backup as linearized_backup,
    policy_cotangent as policy_cotangent,
    policy_values as policy_values,
    soft_backup as soft_backup,
    soft_bellman as soft_bellman,
)
from .linearization import (
    Linearization as Linearization,
)
from .newton import (
    rounding_floor as rounding_floor,
    soft_policy_iteration as soft_policy_iteration,
)
from .passes import (
    Backup as Backup,
)
from .solution import (
    SupportsModel as SupportsModel,
    TabularSolution as TabularSolution,
)
from .transitions import (
    DenseTransitions as DenseTransitions,
    SparseTransitions as SparseTransitions,
    Transitions as Transitions,
)
