"""The public names and where they live: read by type checkers, and by `__init__.py` to import each at its first use."""

from .bellman import (
    Linearization as Linearization,
    adjoint_occupancy as adjoint_occupancy,
    adjoint_right_hand_side as adjoint_right_hand_side,
    discounted_occupancy as discounted_occupancy,
    linearized_backup as linearized_backup,
    policy_cotangent as policy_cotangent,
    policy_values as policy_values,
    soft_backup as soft_backup,
    soft_bellman as soft_bellman,
)
from .bilevel_problem import (
    BilevelProblem as BilevelProblem,
)
from .budgets import (
    Budget as Budget,
    ExchangeRates as ExchangeRates,
)
from .callbacks import (
    Callback as Callback,
    CallbackWarning as CallbackWarning,
    RunFacts as RunFacts,
)
from .certificate import (
    Certificate as Certificate,
    certify as certify,
)
from .checkpoint import (
    CheckpointWarning as CheckpointWarning,
)
from .comparison import (
    compare as compare,
)
from .compilation import (
    compiled as compiled,
)
from .comparison_runs import (
    Checkpoint as Checkpoint,
    ComparedRun as ComparedRun,
)
from .component_registry import (
    Kind as Kind,
    Registered as Registered,
    Registry as Registry,
)
from .composition import (
    compose as compose,
)
from .contexts import (
    ContextualMDP as ContextualMDP,
)
from .contextual_problems import (
    ContextualObjective as ContextualObjective,
    ContextualTrajectoryObjective as ContextualTrajectoryObjective,
    contextual_problem as contextual_problem,
)
from .derivative_bounds import (
    BoundsDerivatives as BoundsDerivatives,
    BoundsGradientChange as BoundsGradientChange,
    DerivativeNorms as DerivativeNorms,
    RowNorms as RowNorms,
)
from .experiment import (
    Experiment as Experiment,
)
from .feasible_sets import (
    Ball as Ball,
    Box as Box,
    FeasibleSet as FeasibleSet,
    Free as Free,
    Simplex as Simplex,
    stationarity as stationarity,
)
from .finite_horizon import (
    FiniteHorizonReturnObjective as FiniteHorizonReturnObjective,
)
from .gymnasium_simulator import (
    GymnasiumSimulator as GymnasiumSimulator,
    GymnasiumWorld as GymnasiumWorld,
)
from .gymnasium_tables import (
    absorbing_states as absorbing_states,
    from_gymnasium as from_gymnasium,
)
from .history import (
    History as History,
    OuterState as OuterState,
)
from .hookspecs import (
    hookimpl as hookimpl,
)
from .linear_systems import (
    Factorization as Factorization,
)
from .mdp import (
    SoftMDP as SoftMDP,
)
from .memory import (
    check_fits as check_fits,
)
from .mixtures import (
    MixtureReward as MixtureReward,
    MixtureTransitions as MixtureTransitions,
    SoftmaxPolicy as SoftmaxPolicy,
)
from .nearby_policies import (
    NearbyPolicies as NearbyPolicies,
)
from .notices import (
    AccuracyWarning as AccuracyWarning,
)
from .objectives import (
    LogLikelihoodObjective as LogLikelihoodObjective,
    QuadraticObjective as QuadraticObjective,
    ReturnObjective as ReturnObjective,
    WeightedSum as WeightedSum,
)
from .occupancy import (
    DenseOccupancy as DenseOccupancy,
    Occupancy as Occupancy,
    SampledOccupancy as SampledOccupancy,
)
from .outer_loop import (
    Algorithm as Algorithm,
    StepFailed as StepFailed,
)
from .parametric import (
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
from .parametric_mdp import (
    ParametricMDP as ParametricMDP,
)
from .passes import (
    Backup as Backup,
)
from .plugins import (
    PluginError as PluginError,
    PluginWarning as PluginWarning,
    discover as discover,
    register as register,
    registry as registry,
)
from .protocols import (
    Cost as Cost,
    HyperGradient as HyperGradient,
    HyperGradientEstimator as HyperGradientEstimator,
    LowerLevelSolution as LowerLevelSolution,
    LowerLevelSolver as LowerLevelSolver,
    OptimizerState as OptimizerState,
    PolicyObjective as PolicyObjective,
    SampledSolution as SampledSolution,
    Status as Status,
    StepwiseObjective as StepwiseObjective,
    SupportsModel as SupportsModel,
    SupportsSampling as SupportsSampling,
    TabularSolution as TabularSolution,
    TrajectoryObjective as TrajectoryObjective,
    UpperLevelOptimizer as UpperLevelOptimizer,
)
from .randomness import (
    stream as stream,
)
from .run import (
    Run as Run,
)
from .sampled_mdp import (
    SampledMDP as SampledMDP,
)
from .sampled_occupancy import (
    first_visit_occupancy as first_visit_occupancy,
    restarted_occupancy as restarted_occupancy,
)
from .saved_runs import (
    load_run as load_run,
    resume_run as resume_run,
    resume_seeds as resume_seeds,
)
from .shortcuts import (
    algorithm as algorithm,
    hypergradient_estimator as hypergradient_estimator,
    lower_level_solver as lower_level_solver,
    problem as problem,
    upper_level_optimizer as upper_level_optimizer,
    value_and_gradient as value_and_gradient,
)
from .simulators import (
    FollowerSpec as FollowerSpec,
    Simulator as Simulator,
    Step as Step,
    SupportsGroups as SupportsGroups,
    SupportsRestart as SupportsRestart,
    SupportsVisits as SupportsVisits,
    TabularSimulator as TabularSimulator,
    Trajectories as Trajectories,
)
from .standings import (
    Comparison as Comparison,
    Standing as Standing,
)
from .tags import (
    Tags as Tags,
)
from .tensorboard_log import (
    TensorBoard as TensorBoard,
)
from .trajectory_gradient import (
    trajectory_gradient as trajectory_gradient,
)
from .trajectory_objectives import (
    CallableTrajectoryObjective as CallableTrajectoryObjective,
    Labeller as Labeller,
    PreferenceDataset as PreferenceDataset,
    PreferenceDatasetObjective as PreferenceDatasetObjective,
    PreferenceObjective as PreferenceObjective,
    ReturnLabeller as ReturnLabeller,
    RewardLabeller as RewardLabeller,
    TrajectoryReturnObjective as TrajectoryReturnObjective,
)
from .transitions import (
    DenseTransitions as DenseTransitions,
    SparseTransitions as SparseTransitions,
    Transitions as Transitions,
)
from .validation import (
    Array as Array,
    IncompatibleError as IncompatibleError,
    Indices as Indices,
    InputError as InputError,
    UnknownNameError as UnknownNameError,
    WorkerLost as WorkerLost,
    is_choice as is_choice,
    is_flag as is_flag,
    is_integer as is_integer,
    is_real as is_real,
    maximum_norm as maximum_norm,
)
from .workers import (
    parallel_map as parallel_map,
    use_jobs as use_jobs,
)

__version__: str
