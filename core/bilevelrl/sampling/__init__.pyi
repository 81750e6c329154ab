"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .hypergradient import (
    trajectory_gradient as trajectory_gradient,
)
from .occupancies import (
    first_visit_occupancy as first_visit_occupancy,
    restarted_occupancy as restarted_occupancy,
)
from .simulators import (
    FollowerSpec as FollowerSpec,
    Simulator as Simulator,
    Step as Step,
    SupportsGroups as SupportsGroups,
    SupportsRestart as SupportsRestart,
    SupportsVisits as SupportsVisits,
    Trajectories as Trajectories,
)
from .solution import (
    SampledSolution as SampledSolution,
    SupportsSampling as SupportsSampling,
)
from .tabular_simulator import (
    TabularSimulator as TabularSimulator,
)
