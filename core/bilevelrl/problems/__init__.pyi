"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .bilevel_problem import (
    BilevelProblem as BilevelProblem,
)
from .contexts import (
    ContextualMDP as ContextualMDP,
)
from .contextual_problems import (
    ContextualObjective as ContextualObjective,
)
from .contextual_problems import (
    ContextualTrajectoryObjective as ContextualTrajectoryObjective,
)
from .contextual_problems import (
    contextual_problem as contextual_problem,
)
from .feasible_sets import (
    Ball as Ball,
)
from .feasible_sets import (
    Box as Box,
)
from .feasible_sets import (
    FeasibleSet as FeasibleSet,
)
from .feasible_sets import (
    Free as Free,
)
from .feasible_sets import (
    Simplex as Simplex,
)
from .feasible_sets import (
    stationarity as stationarity,
)
