"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .hypergradient import (
    trajectory_gradient as trajectory_gradient,
)
from .occupancies import (
    first_visit_occupancy as first_visit_occupancy,
    restarted_occupancy as restarted_occupancy,
)
from .policies import (
    TabularPolicy as TabularPolicy,
    as_policy as as_policy,
)
from .simulators import (
    FollowerSpec as FollowerSpec,
    Simulator as Simulator,
    Step as Step,
    SupportsGroups as SupportsGroups,
    SupportsRestart as SupportsRestart,
    SupportsVisits as SupportsVisits,
    Trajectories as Trajectories,
    draw_groups as draw_groups,
    rollout_by_steps as rollout_by_steps,
)
from .solution import (
    SampledSolution as SampledSolution,
    SupportsSampling as SupportsSampling,
    simulator_of as simulator_of,
)
from .spaces import (
    Discrete as Discrete,
    Space as Space,
)
from .tabular_simulator import (
    TabularSimulator as TabularSimulator,
)
