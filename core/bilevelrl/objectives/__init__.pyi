"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .finite_horizon import (
    FiniteHorizonReturnObjective as FiniteHorizonReturnObjective,
)
from .policy_objectives import (
    LogLikelihoodObjective as LogLikelihoodObjective,
)
from .policy_objectives import (
    QuadraticObjective as QuadraticObjective,
)
from .policy_objectives import (
    ReturnObjective as ReturnObjective,
)
from .policy_objectives import (
    WeightedSum as WeightedSum,
)
from .preferences import (
    Labeller as Labeller,
)
from .preferences import (
    PreferenceDataset as PreferenceDataset,
)
from .preferences import (
    PreferenceDatasetObjective as PreferenceDatasetObjective,
)
from .preferences import (
    PreferenceObjective as PreferenceObjective,
)
from .preferences import (
    ReturnLabeller as ReturnLabeller,
)
from .preferences import (
    RewardLabeller as RewardLabeller,
)
from .protocols import (
    PolicyObjective as PolicyObjective,
)
from .protocols import (
    StepwiseObjective as StepwiseObjective,
)
from .protocols import (
    TrajectoryObjective as TrajectoryObjective,
)
from .trajectory_objectives import (
    CallableTrajectoryObjective as CallableTrajectoryObjective,
)
from .trajectory_objectives import (
    TrajectoryReturnObjective as TrajectoryReturnObjective,
)
