"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .contexts import (
    ContextualMDP as ContextualMDP,
)
from .contextual_problems import (
    ContextualObjective as ContextualObjective,
    ContextualTrajectoryObjective as ContextualTrajectoryObjective,
    contextual_problem as contextual_problem,
)
from .evaluation import (
    Evaluation as Evaluation,
)
from .exact import (
    implicit_gradient as implicit_gradient,
)
from .feasible_sets import (
    Ball as Ball,
    FeasibleSet as FeasibleSet,
    Free as Free,
    Simplex as Simplex,
    stationarity as stationarity,
)
