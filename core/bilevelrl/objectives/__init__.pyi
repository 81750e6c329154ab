"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .finite_horizon import (
    FiniteHorizonReturnObjective as FiniteHorizonReturnObjective,
)
from .policy_objectives import (
    LogLikelihoodObjective as LogLikelihoodObjective,
    QuadraticObjective as QuadraticObjective,
    ReturnObjective as ReturnObjective,
    WeightedSum as WeightedSum,
)
from .preferences import (
    Labeller as Labeller,
    PreferenceDataset as PreferenceDataset,
    PreferenceDatasetObjective as PreferenceDatasetObjective,
    PreferenceObjective as PreferenceObjective,
    ReturnLabeller as ReturnLabeller,
    RewardLabeller as RewardLabeller,
)
from .protocols import (
    PolicyObjective as PolicyObjective,
    StepwiseObjective as StepwiseObjective,
    TrajectoryObjective as TrajectoryObjective,
)
from .trajectory_objectives import (
    CallableTrajectoryObjective as CallableTrajectoryObjective,
    TrajectoryReturnObjective as TrajectoryReturnObjective,
)
