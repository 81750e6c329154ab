"""bilevelrl: a plugin framework for bilevel reinforcement learning."""

from __future__ import annotations

from typing import Any

from bilevelrl.bellman import (
    Linearization,
    adjoint_occupancy,
    adjoint_right_hand_side,
    discounted_occupancy,
    linearized_backup,
    policy_cotangent,
    policy_values,
    soft_backup,
    soft_bellman,
)
from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.budgets import Budget, ExchangeRates
from bilevelrl.checkpoint import CheckpointWarning
from bilevelrl.comparison import Comparison, Standing, compare
from bilevelrl.comparison_runs import Checkpoint, ComparedRun
from bilevelrl.component_registry import Kind, Registered, Registry
from bilevelrl.composition import compose
from bilevelrl.contexts import ContextualMDP
from bilevelrl.contextual_problems import ContextualObjective, ContextualTrajectoryObjective, contextual_problem
from bilevelrl.experiment import Experiment
from bilevelrl.feasible_sets import Ball, Box, FeasibleSet, Free, Simplex, stationarity
from bilevelrl.finite_horizon import FiniteHorizonReturnObjective
from bilevelrl.gymnasium_simulator import GymnasiumSimulator, GymnasiumWorld
from bilevelrl.gymnasium_tables import absorbing_states, from_gymnasium
from bilevelrl.history import History, OuterState
from bilevelrl.hookspecs import hookimpl
from bilevelrl.linear_systems import Factorization
from bilevelrl.mdp import SoftMDP
from bilevelrl.memory import check_fits
from bilevelrl.mixtures import MixtureReward, MixtureTransitions, SoftmaxPolicy
from bilevelrl.objectives import (
    LogLikelihoodObjective,
    QuadraticObjective,
    ReturnObjective,
    WeightedSum,
)
from bilevelrl.occupancy import DenseOccupancy, Occupancy, SampledOccupancy
from bilevelrl.outer_loop import Algorithm, StepFailed
from bilevelrl.parametric import (
    CallableReward,
    LinearReward,
    ParametricArray,
    ParametricTransitions,
    Slice,
    SoftmaxInitial,
    SoftmaxTransitions,
    StateReward,
    TabularReward,
)
from bilevelrl.parametric_mdp import ParametricMDP
from bilevelrl.passes import Backup
from bilevelrl.plugins import PluginError, PluginWarning, discover, register, registry
from bilevelrl.protocols import (
    Cost,
    HyperGradient,
    HyperGradientEstimator,
    LowerLevelSolution,
    LowerLevelSolver,
    OptimizerState,
    PolicyObjective,
    SampledSolution,
    Status,
    StepwiseObjective,
    SupportsModel,
    SupportsSampling,
    TabularSolution,
    TrajectoryObjective,
    UpperLevelOptimizer,
)
from bilevelrl.randomness import stream
from bilevelrl.run import Run
from bilevelrl.sampled_mdp import SampledMDP
from bilevelrl.sampled_occupancy import first_visit_occupancy, restarted_occupancy
from bilevelrl.saved_runs import load_run, resume_run
from bilevelrl.simulators import (
    FollowerSpec,
    Simulator,
    Step,
    SupportsGroups,
    SupportsRestart,
    TabularSimulator,
    Trajectories,
)
from bilevelrl.tags import Tags
from bilevelrl.trajectory_gradient import trajectory_gradient
from bilevelrl.trajectory_objectives import (
    CallableTrajectoryObjective,
    Labeller,
    PreferenceDataset,
    PreferenceDatasetObjective,
    PreferenceObjective,
    ReturnLabeller,
    RewardLabeller,
    TrajectoryReturnObjective,
)
from bilevelrl.transitions import DenseTransitions, SparseTransitions, Transitions
from bilevelrl.validation import (
    Array,
    IncompatibleError,
    Indices,
    InputError,
    UnknownNameError,
    is_choice,
    is_flag,
    is_integer,
    is_real,
    maximum_norm,
)

__version__ = "0.1.0"


def problem(name: str, **options: Any) -> BilevelProblem:
    """The registered problem of that name, with its options; `bilevelrl list problems` shows them."""
    made: BilevelProblem = registry().create(Kind.PROBLEM, name, options)
    return made


def algorithm(name: str, **options: Any) -> Algorithm:
    """The registered recipe of that name, with its options, as an `Algorithm`."""
    made: Algorithm = registry().create(Kind.ALGORITHM, name, options)
    return made


def lower_level_solver(name: str, **options: Any) -> LowerLevelSolver:
    """The registered lower-level solver of that name, configured."""
    made: LowerLevelSolver = registry().create(Kind.LOWER_LEVEL_SOLVER, name, options)
    return made


def hypergradient_estimator(name: str, **options: Any) -> HyperGradientEstimator:
    """The registered hyper-gradient estimator of that name, configured."""
    made: HyperGradientEstimator = registry().create(Kind.HYPERGRADIENT_ESTIMATOR, name, options)
    return made


def upper_level_optimizer(name: str, **options: Any) -> UpperLevelOptimizer:
    """The registered upper-level optimizer of that name, configured."""
    made: UpperLevelOptimizer = registry().create(Kind.UPPER_LEVEL_OPTIMIZER, name, options)
    return made


def value_and_gradient(problem: BilevelProblem, x: object, *, tolerance: float = 1e-12) -> tuple[float, Array]:
    """`φ(x) = f(x, π*(x))` and the exact `∇φ(x)`, for `scipy.optimize.minimize(..., jac=True)` or a second opinion.

    Soft policy iteration to `‖V − V*‖∞ ≤ tolerance` (or to rounding), then one adjoint solve.

    Args:
        problem: any problem with a transition model and an objective of the policy.
        x: (n,).
        tolerance: the follower's accuracy.

    Raises:
        InputError: where x is not a finite vector of length n, or the problem offers no model.
        StepFailed: where a value is not finite.
    """
    exact = Algorithm(
        lower=lower_level_solver("soft-policy-iteration", tolerance=tolerance),
        estimator=hypergradient_estimator("implicit"),
        upper=upper_level_optimizer("gradient-descent"),
        name="exact",
    )
    exact.check_compatible(problem)
    hyper = exact.evaluate(problem, x).hyper
    return hyper.objective, hyper.gradient


__all__ = [
    "Algorithm",
    "Array",
    "Backup",
    "Ball",
    "BilevelProblem",
    "Box",
    "Budget",
    "CallableReward",
    "CallableTrajectoryObjective",
    "Checkpoint",
    "CheckpointWarning",
    "ComparedRun",
    "Comparison",
    "ContextualMDP",
    "ContextualObjective",
    "ContextualTrajectoryObjective",
    "Cost",
    "DenseOccupancy",
    "DenseTransitions",
    "ExchangeRates",
    "Experiment",
    "Factorization",
    "FeasibleSet",
    "FiniteHorizonReturnObjective",
    "FollowerSpec",
    "Free",
    "GymnasiumSimulator",
    "GymnasiumWorld",
    "History",
    "HyperGradient",
    "HyperGradientEstimator",
    "IncompatibleError",
    "Indices",
    "InputError",
    "Kind",
    "Labeller",
    "LinearReward",
    "Linearization",
    "LogLikelihoodObjective",
    "LowerLevelSolution",
    "LowerLevelSolver",
    "MixtureReward",
    "MixtureTransitions",
    "Occupancy",
    "OptimizerState",
    "OuterState",
    "ParametricArray",
    "ParametricMDP",
    "ParametricTransitions",
    "PluginError",
    "PluginWarning",
    "PolicyObjective",
    "PreferenceDataset",
    "PreferenceDatasetObjective",
    "PreferenceObjective",
    "QuadraticObjective",
    "Registered",
    "Registry",
    "ReturnLabeller",
    "ReturnObjective",
    "RewardLabeller",
    "Run",
    "SampledMDP",
    "SampledOccupancy",
    "SampledSolution",
    "Simplex",
    "Simulator",
    "Slice",
    "SoftMDP",
    "SoftmaxInitial",
    "SoftmaxPolicy",
    "SoftmaxTransitions",
    "SparseTransitions",
    "Standing",
    "StateReward",
    "Status",
    "Step",
    "StepFailed",
    "StepwiseObjective",
    "SupportsGroups",
    "SupportsModel",
    "SupportsRestart",
    "SupportsSampling",
    "TabularReward",
    "TabularSimulator",
    "TabularSolution",
    "Tags",
    "Trajectories",
    "TrajectoryObjective",
    "TrajectoryReturnObjective",
    "Transitions",
    "UnknownNameError",
    "UpperLevelOptimizer",
    "WeightedSum",
    "__version__",
    "absorbing_states",
    "adjoint_occupancy",
    "adjoint_right_hand_side",
    "algorithm",
    "check_fits",
    "compare",
    "compose",
    "contextual_problem",
    "discounted_occupancy",
    "discover",
    "first_visit_occupancy",
    "from_gymnasium",
    "hookimpl",
    "hypergradient_estimator",
    "is_choice",
    "is_flag",
    "is_integer",
    "is_real",
    "linearized_backup",
    "load_run",
    "lower_level_solver",
    "maximum_norm",
    "policy_cotangent",
    "policy_values",
    "problem",
    "register",
    "registry",
    "restarted_occupancy",
    "resume_run",
    "soft_backup",
    "soft_bellman",
    "stationarity",
    "stream",
    "trajectory_gradient",
    "upper_level_optimizer",
    "value_and_gradient",
]
