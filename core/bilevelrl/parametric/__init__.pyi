"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .mixtures import (
    MixtureReward as MixtureReward,
)
from .mixtures import (
    MixtureTransitions as MixtureTransitions,
)
from .mixtures import (
    SoftmaxPolicy as SoftmaxPolicy,
)
from .parametric_mdp import (
    ParametricMDP as ParametricMDP,
)
from .parts import (
    CallableReward as CallableReward,
)
from .parts import (
    LinearReward as LinearReward,
)
from .parts import (
    ParametricArray as ParametricArray,
)
from .parts import (
    ParametricTransitions as ParametricTransitions,
)
from .parts import (
    Slice as Slice,
)
from .parts import (
    SoftmaxInitial as SoftmaxInitial,
)
from .parts import (
    SoftmaxTransitions as SoftmaxTransitions,
)
from .parts import (
    StateReward as StateReward,
)
from .parts import (
    TabularReward as TabularReward,
)
from .sampled_mdp import (
    SampledMDP as SampledMDP,
)
