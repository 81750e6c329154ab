"""The public names and where they are: read by type checkers, and by `__init__.py` to import each at its first use."""

from . import (
    certificates as certificates,
    comparison as comparison,
    execution as execution,
    factories as factories,
    integrations as integrations,
    linear as linear,
    mdp as mdp,
    objectives as objectives,
    occupancy as occupancy,
    outer_loop as outer_loop,
    parametric as parametric,
    plugins as plugins,
    problems as problems,
    protocols as protocols,
    randomness as randomness,
    runs as runs,
    sampling as sampling,
    storage as storage,
    validation as validation,
)
from .comparison.contest import (
    compare as compare,
)
from .execution.workers import (
    use_jobs as use_jobs,
)
from .factories import (
    algorithm as algorithm,
    compose as compose,
    hypergradient_estimator as hypergradient_estimator,
    load_run as load_run,
    lower_level_solver as lower_level_solver,
    problem as problem,
    resume_run as resume_run,
    resume_seeds as resume_seeds,
    upper_level_optimizer as upper_level_optimizer,
    value_and_gradient as value_and_gradient,
)
from .mdp.soft_mdp import (
    SoftMDP as SoftMDP,
)
from .parametric.parametric_mdp import (
    ParametricMDP as ParametricMDP,
)
from .plugins.discovery import (
    register as register,
)
from .plugins.hookspecs import (
    hookimpl as hookimpl,
)
from .problems.bilevel_problem import (
    BilevelProblem as BilevelProblem,
)
from .problems.feasible_sets import (
    Box as Box,
)
from .protocols import (
    Cost as Cost,
    HyperGradient as HyperGradient,
    HyperGradientEstimator as HyperGradientEstimator,
    LowerLevelSolution as LowerLevelSolution,
    LowerLevelSolver as LowerLevelSolver,
    OptimizerState as OptimizerState,
    Policy as Policy,
    Problem as Problem,
    Status as Status,
    Tags as Tags,
    UpperLevelOptimizer as UpperLevelOptimizer,
)
from .runs.algorithm import (
    Algorithm as Algorithm,
)
from .runs.callbacks import (
    Callback as Callback,
)
from .runs.run import (
    Run as Run,
)
from .validation.arrays import (
    Array as Array,
)
from .validation.errors import (
    IncompatibleError as IncompatibleError,
    InputError as InputError,
)

__version__: str
