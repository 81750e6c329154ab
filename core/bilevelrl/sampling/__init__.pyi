"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .occupancies import (
    first_visit_occupancy as first_visit_occupancy,
)
from .occupancies import (
    restarted_occupancy as restarted_occupancy,
)
from .simulators import (
    FollowerSpec as FollowerSpec,
)
from .simulators import (
    Simulator as Simulator,
)
from .simulators import (
    Step as Step,
)
from .simulators import (
    SupportsGroups as SupportsGroups,
)
from .simulators import (
    SupportsRestart as SupportsRestart,
)
from .simulators import (
    SupportsVisits as SupportsVisits,
)
from .simulators import (
    Trajectories as Trajectories,
)
from .solution import (
    SampledSolution as SampledSolution,
)
from .solution import (
    SupportsSampling as SupportsSampling,
)
from .tabular_simulator import (
    TabularSimulator as TabularSimulator,
)
from .trajectory_gradient import (
    trajectory_gradient as trajectory_gradient,
)
