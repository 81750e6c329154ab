"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .bellman import (
    adjoint_occupancy as adjoint_occupancy,
)
from .bellman import (
    adjoint_right_hand_side as adjoint_right_hand_side,
)
from .bellman import (
    discounted_occupancy as discounted_occupancy,
)
from .bellman import (
    linearized_backup as linearized_backup,
)
from .bellman import (
    policy_cotangent as policy_cotangent,
)
from .bellman import (
    policy_values as policy_values,
)
from .bellman import (
    soft_backup as soft_backup,
)
from .bellman import (
    soft_bellman as soft_bellman,
)
from .linearization import (
    Linearization as Linearization,
)
from .passes import (
    Backup as Backup,
)
from .soft_mdp import (
    SoftMDP as SoftMDP,
)
from .solution import (
    SupportsModel as SupportsModel,
)
from .solution import (
    TabularSolution as TabularSolution,
)
from .transitions import (
    DenseTransitions as DenseTransitions,
)
from .transitions import (
    SparseTransitions as SparseTransitions,
)
from .transitions import (
    Transitions as Transitions,
)
