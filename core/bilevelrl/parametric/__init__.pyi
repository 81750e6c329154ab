"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .mixtures import (
    MixtureReward as MixtureReward,
    MixtureTransitions as MixtureTransitions,
    SoftmaxPolicy as SoftmaxPolicy,
)
from .observation_rewards import (
    FeatureReward as FeatureReward,
    ObservationReward as ObservationReward,
    RewardAt as RewardAt,
)
from .parts import (
    CallableReward as CallableReward,
    LinearReward as LinearReward,
    ParametricArray as ParametricArray,
    ParametricTransitions as ParametricTransitions,
    Slice as Slice,
    SoftmaxInitial as SoftmaxInitial,
    SoftmaxTransitions as SoftmaxTransitions,
    StateReward as StateReward,
    TabularReward as TabularReward,
)
from .sampled_mdp import (
    SampledMDP as SampledMDP,
)
