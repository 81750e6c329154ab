"""What the kit is tested by: components with a single fault each, and correct ones beside them.

`FAULTS` lists the faults with the laws of which one must catch each; `CONTROLS` the components that no law may blame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from kit.planted import estimators, optimizers, problems, solvers, stochastic_estimators

KINDS = ("solver", "estimator", "optimizer", "problem")


@attrs.frozen
class Fault:
    """A component with one fault.

    Args:
        name: the fault in words.
        kind: one of `KINDS`.
        factory: makes the component, or the problem, anew.
        law: the names of laws any of which may be the one that catches it.
        why: what is wrong, in a sentence.
    """

    name: str
    kind: str = attrs.field(validator=attrs.validators.in_(KINDS))
    factory: Callable[[], Any]
    law: tuple[str, ...]
    why: str


@attrs.frozen
class Control:
    """A correct component.

    Args:
        name: what it is, in words.
        kind: one of `KINDS`.
        factory: makes the component, or the problem, anew.
    """

    name: str
    kind: str = attrs.field(validator=attrs.validators.in_(KINDS))
    factory: Callable[[], Any]


CONTROLS = [
    Control("value iteration to a tolerance", "solver", solvers.ExactSolver),
    Control("a fixed number of sweeps", "solver", solvers.TrackingSolver),
    Control("value iteration in the counted world", "solver", solvers.CountingSolver),
    Control("the adjoint equation, solved", "estimator", estimators.AdjointEstimator),
    Control("the adjoint, refined to a stopping rule", "estimator", estimators.StoppingEstimator),
    Control("forward sensitivities, solved", "estimator", estimators.ForwardEstimator),
    Control("the adjoint, tracked by its Neumann series", "estimator", estimators.TrackingEstimator),
    Control("a batch with geometric lengths", "estimator", stochastic_estimators.BatchEstimator),
    Control(
        "a batch with truncated continuations", "estimator", lambda: stochastic_estimators.BatchEstimator(truncation=6)
    ),
    Control("gradient descent", "optimizer", optimizers.Descent),
    Control("gradient descent with momentum", "optimizer", optimizers.Momentum),
    Control("Adam", "optimizer", optimizers.Adam),
    Control("a leader who judges policies", "problem", problems.judged_by_policy),
    Control("a leader who judges trajectories", "problem", problems.judged_by_trajectories),
]

# Laws that only the right equation keeps.
BACKUP = ("action_values_are_one_backup_of_the_values",)
SOFTMAX = ("policy_is_the_softmax_of_the_action_values",)
REFERENCE = ("reference_measure_is_a_reward_bonus",)
RESIDUAL = ("residual_is_true",)
LEARNS = ("learns_the_optimal_policy",)
GRADIENT = (
    "agrees_with_forward_sensitivities",
    "agrees_with_central_differences",
    "agrees_with_the_unrolled_iteration",
    "agrees_with_the_papers_formula",
    "agrees_with_pseudo_inverse_aid",
)
FLOW = ("occupancy_obeys_the_flow_equation", "occupancy_is_a_mixture_of_occupancies")
DIRECT = ("direct_part_is_the_objectives",)
PULLBACK = ("implicit_part_is_one_pullback",)
NOTHING = (
    "constant_rewards_have_no_gradient",
    "potential_shaping_has_no_gradient",
    "a_number_per_state_changes_nothing",
)
UNBIASED = ("unbiased", "unbiased_to_one_percent")
COVERS = ("standard_error_covers",)
MUTATION = ("inputs_are_not_mutated",)
KEY = ("same_key_same_answer",)
HIDDEN = ("calls_are_independent", "saved_and_restored_continues_identically")
WARM = ("warm_start_changes_the_cost_only",)
COST = ("cost_is_true",)
NON_FINITE = ("non_finite_never_converges",)
FAILURE = ("failure_is_reported",)
STORAGE = ("storage_does_not_matter",)
LAYOUT = ("memory_layout_does_not_matter",)
STATES = ("relabelling_states_permutes_the_answer",)
ACTIONS = ("relabelling_actions_permutes_the_answer",)
REQUIRED = ("only_what_is_required_is_used",)
FLOAT64 = ("answer_is_float64",)
REPEATED = ("repeated_calls_converge",)
PULLS = ("pullback_is_the_derivative",)
LINEAR = ("pullback_is_linear",)
VALID = ("model_is_valid",)
FUNCTION = ("model_is_a_function_of_x",)
SIMULATES = ("simulator_agrees_with_the_model",)
VISITS = ("visits_agree_with_the_model",)
REPEATS = ("simulator_repeats_itself",)
OBJECTIVE = ("objective_gradients_are_derivatives",)
LOSS = ("loss_gradient_is_the_derivative",)
PROJECTION = ("projection_is_a_projection",)
START = ("start_is_feasible",)
MEASURES = ("measures_are_finite",)


def _faults(kind: str, *rows: tuple[str, Callable[[], Any], tuple[str, ...], str]) -> list[Fault]:
    return [Fault(name, kind, factory, law, why) for name, factory, law, why in rows]


EXACT_SOLVERS = _faults(
    "solver",
    (
        "1/τ forgotten in the policy",
        solvers.TemperatureForgottenInThePolicy,
        (*SOFTMAX, "values_are_those_of_the_policy", "policy_error_is_bounded", *LEARNS),
        "The policy is softmax(q), at temperature one, beside values at temperature τ.",
    ),
    (
        "hard maximum for the soft one",
        solvers.HardMaximum,
        (*RESIDUAL, "residual_bounds_the_error", "converged_means_within_tolerance", "values_are_those_of_the_policy"),
        "The values are those of the follower without entropy.",
    ),
    (
        "kernel of the next action",
        solvers.KernelOfTheNextAction,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance"),
        "An axis of P is mixed up: action a moves as action a + 1 should.",
    ),
    (
        "γ² for γ",
        solvers.DiscountSquared,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance"),
        "The continuation is discounted twice.",
    ),
    (
        "reward of the next state",
        solvers.RewardOfTheNextState,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance"),
        "The follower is paid for where it arrives, not for what it did.",
    ),
    (
        "reference measure ignored",
        solvers.ReferenceIgnored,
        (*REFERENCE, *SOFTMAX, *RESIDUAL, "values_are_those_of_the_policy"),
        "Entropy regularises where the divergence from μ should.",
    ),
    (
        "reference measure in the policy, not in the values",
        solvers.ReferenceInThePolicyOnly,
        (*REFERENCE, *RESIDUAL, "values_are_those_of_the_policy", "converged_means_within_tolerance"),
        "The log-sum-exp sums without μ.",
    ),
    (
        "reference measure in the values, not in the policy",
        solvers.ReferenceInTheValuesOnly,
        (*REFERENCE, *SOFTMAX, "values_are_those_of_the_policy"),
        "The policy is the softmax of q/τ without log μ.",
    ),
    (
        "log-sum-exp without a shift",
        solvers.NoShiftInTheLogSumExp,
        ("low_temperature_tends_to_the_hard_optimum", *NON_FINITE, *FAILURE, "temperature_and_rewards_scale_together"),
        "exp(q/τ) overflows where τ is small.",
    ),
    (
        "temperature with a floor",
        solvers.TemperatureFloor,
        (
            "low_temperature_tends_to_the_hard_optimum",
            *SOFTMAX,
            *RESIDUAL,
            "temperature_and_rewards_scale_together",
            "converged_means_within_tolerance",
        ),
        "A temperature below 0.2 is taken for 0.2.",
    ),
    (
        "rewards centred",
        solvers.RewardsCentred,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance", "values_are_those_of_the_policy"),
        "The mean reward is subtracted, which leaves the policy right and the values wrong.",
    ),
    (
        "rewards clipped",
        solvers.RewardsClipped,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance"),
        "Rewards beyond ±0.5 are clipped.",
    ),
    (
        "ties broken by the action's index",
        solvers.TiesBrokenByTheIndex,
        (*ACTIONS, *BACKUP),
        "Later actions earn a millionth more.",
    ),
    (
        "state 0 taken to end",
        solvers.StateZeroIsTakenToEnd,
        (*STATES, *BACKUP),
        "Whatever state has the index 0 is worth its immediate reward only.",
    ),
    (
        "rows that do not sum to one",
        solvers.RowsDoNotSumToOne,
        (*SOFTMAX,),
        "Every probability is too large by a millionth.",
    ),
    (
        "x ignored",
        solvers.IgnoresX,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance", "higher_rewards_give_higher_values"),
        "The follower's MDP at x = 0 is solved, and handed on as the one at x.",
    ),
    (
        "model of the warm start",
        solvers.ModelOfTheWarmStart,
        (*WARM, "saved_and_restored_continues_identically"),
        "Warm-started it solves the last x's MDP, not this one's.",
    ),
    (
        "dense kernels only",
        solvers.DenseKernelsOnly,
        STORAGE,
        "It reads the stored probabilities as (S, A, S), and crashes where they are sparse.",
    ),
    (
        "stops early and says converged",
        solvers.StopsEarly,
        ("converged_means_within_tolerance",),
        "Ten sweeps, whatever they leave.",
    ),
    (
        "tolerance on the residual",
        solvers.ToleranceOnTheResidual,
        ("converged_means_within_tolerance",),
        "A residual of the tolerance leaves an error 1/(1−γ) times as large.",
    ),
    (
        "converged although not finite",
        solvers.ConvergedAlthoughNotFinite,
        (*NON_FINITE, *FAILURE),
        "NaN counts as converged.",
    ),
    (
        "not finite called budget spent",
        solvers.NotFiniteCalledBudgetSpent,
        FAILURE,
        "The status of an answer of NaN says that it can be built on.",
    ),
    (
        "raises where rewards are not finite",
        solvers.RaisesOnNotFinite,
        (*FAILURE, *NON_FINITE),
        "A failure that a status should tell ends the run.",
    ),
    ("no backups counted", solvers.CountsNoBackups, COST, "The cost says that the answer was free."),
    (
        "one backup too few counted",
        solvers.CountsOneBackupTooFew,
        COST,
        "The last backup, for the policy, is not counted.",
    ),
    (
        "values in single precision",
        solvers.ValuesInSinglePrecision,
        FLOAT64,
        "The values are an array of float32.",
    ),
    (
        "values rounded to single precision",
        solvers.ValuesRoundedToSinglePrecision,
        (*BACKUP, *RESIDUAL, "converged_means_within_tolerance"),
        "The values are float64 again, but only 24 bits of them are right.",
    ),
    ("x mutated", solvers.MutatesX, MUTATION, "The leader's x is another one after the call."),
    (
        "rewards mutated",
        solvers.MutatesTheRewards,
        MUTATION,
        "The model's rewards are others after the call, in the very array that the model may share.",
    ),
    (
        "last values remembered",
        solvers.RemembersTheLastValues,
        (*HIDDEN, *KEY),
        "A call starts where the object's last call ended, so its bits and its cost depend on it.",
    ),
    (
        "warm start taken for the answer",
        solvers.WarmStartTakenForTheAnswer,
        (*WARM, "converged_means_within_tolerance"),
        "A warm start of the right shape is returned as it is.",
    ),
    (
        "a simulator asked for",
        solvers.AsksForASimulator,
        REQUIRED,
        "It requires a model, and fails where there is nothing but a model.",
    ),
    (
        "the objective asked for",
        solvers.AsksForTheObjective,
        REQUIRED,
        "The follower's solver evaluates the leader's objective.",
    ),
)

TRACKING_SOLVERS = _faults(
    "solver",
    (
        "warm start written into",
        solvers.WritesIntoTheWarmStart,
        MUTATION,
        "The last solution's values become this one's, for whoever still holds it.",
    ),
    (
        "converges in the warm start's array",
        solvers.ConvergesInTheWarmStart,
        MUTATION,
        "The last solution's values become this one's, which shows only where x has moved.",
    ),
    (
        "values one backup older",
        solvers.ValuesOneBackupOlder,
        (*BACKUP, *RESIDUAL),
        "The values belong to the sweep before the policy's.",
    ),
    (
        "action values one backup older",
        solvers.ActionValuesOneBackupOlder,
        (*BACKUP, *SOFTMAX),
        "The action values belong to the sweep before.",
    ),
    (
        "policy one backup older",
        solvers.PolicyOneBackupOlder,
        SOFTMAX,
        "The policy belongs to the sweep before.",
    ),
    (
        "residual understated by ten",
        solvers.ResidualUnderstated,
        (*RESIDUAL, "residual_bounds_the_error"),
        "The residual is a tenth of ‖Tv − v‖.",
    ),
    (
        "residual of the previous iterate",
        solvers.ResidualOfThePreviousIterate,
        RESIDUAL,
        "The residual was measured a sweep before the answer.",
    ),
    (
        "residual always zero",
        solvers.ResidualAlwaysZero,
        (*RESIDUAL, "residual_bounds_the_error"),
        "The residual says optimal, whatever the answer.",
    ),
    (
        "residual averaged over states",
        solvers.ResidualAveraged,
        (*RESIDUAL, "residual_bounds_the_error"),
        "The residual is a mean, where the bound needs the largest.",
    ),
    (
        "tracks inside the object",
        solvers.TracksInsideTheObject,
        (*HIDDEN, *KEY, *REPEATED),
        "It goes on from what the object remembers, not from the warm start.",
    ),
    (
        "never gets further (solver)",
        solvers.NeverGetsFurther,
        REPEATED,
        "Every call begins at zero, so repeated calls never converge.",
    ),
    (
        "starts at random (solver)",
        solvers.StartsAtRandom,
        (*KEY, "calls_are_independent"),
        "A deterministic solver draws from numpy's global generator.",
    ),
)

STOCHASTIC_SOLVERS = _faults(
    "solver",
    ("samples under-reported (solver)", solvers.SamplesUnderReported, COST, "Half of the transitions are not counted."),
    (
        "hard maximum learnt",
        solvers.LearnsTheHardMaximum,
        LEARNS,
        "The values are those of the follower without entropy.",
    ),
    (
        "exploring policy learnt",
        solvers.LearnsTheExploringPolicy,
        LEARNS,
        "The values are those of the policy that drew the samples.",
    ),
    ("present reward learnt only", solvers.SampledDiscountForgotten, LEARNS, "What comes after the step is left out."),
    (
        "temperature one learnt",
        solvers.SampledTemperatureForgotten,
        (*LEARNS, *SOFTMAX),
        "The follower's temperature is not looked at.",
    ),
    (
        "reference measure ignored by a learner",
        solvers.SampledReferenceIgnored,
        (*LEARNS, *REFERENCE, *SOFTMAX),
        "Entropy regularises where the divergence from μ should.",
    ),
    (
        "a learner peeks at the model",
        solvers.PeeksAtTheModel,
        (*REQUIRED, *COST),
        "It requires a simulator only, and answers with the model's solution.",
    ),
    ("a learner seeds itself", solvers.SeedsItself, KEY, "Its generator comes from the operating system's entropy."),
    (
        "a learner converged although not finite",
        solvers.SampledConvergedAlthoughNotFinite,
        (*NON_FINITE, *FAILURE),
        "NaN counts as converged.",
    ),
    (
        "a learner writes into its warm start",
        solvers.WritesIntoTheWarmStartsActionValues,
        MUTATION,
        "The last solution's action values are halved where they stand.",
    ),
    (
        "a learner counts its calls itself",
        solvers.SamplesLessEveryCall,
        (*HIDDEN, *KEY),
        "A call draws half as much as the object's last one did.",
    ),
)

EXACT_ESTIMATORS = _faults(
    "estimator",
    (
        "1/τ forgotten in the cotangent",
        estimators.TemperatureForgotten,
        (*GRADIENT, "matches_demonstrated_features", "occupancy_is_a_mixture_of_occupancies"),
        "c = π ⊙ ∂f/∂π, without the temperature.",
    ),
    (
        "reference measure multiplied in again",
        estimators.ReferenceMultipliedAgain,
        (*REFERENCE, *GRADIENT, "matches_demonstrated_features", "occupancy_is_a_mixture_of_occupancies"),
        "μ is in π already.",
    ),
    (
        "P for Pᵀ in the adjoint",
        estimators.KernelNotTransposed,
        (*GRADIENT, *FLOW, *RESIDUAL),
        "The linear system is solved with the matrix, not with its transpose.",
    ),
    (
        "γ² in the adjoint",
        estimators.DiscountSquaredInTheAdjoint,
        (*GRADIENT, *FLOW, *RESIDUAL, *COST),
        "The linear system has another discount than the follower.",
    ),
    (
        "γ forgotten in the inflow",
        estimators.DiscountForgottenInTheInflow,
        (*GRADIENT, *FLOW, *NOTHING),
        "The right-hand side is Pᵀc − Σc.",
    ),
    (
        "∇Q without ∇V",
        estimators.ActionValuesOnly,
        (*GRADIENT, *FLOW, *NOTHING),
        "The occupancy from the state is not subtracted.",
    ),
    (
        "present step only",
        estimators.PresentStepOnly,
        (*GRADIENT, *FLOW, *RESIDUAL, *NOTHING),
        "The adjoint is zero: only the reward of the action itself is differentiated.",
    ),
    (
        "tail truncated",
        estimators.TruncatedTail,
        (*GRADIENT, *FLOW),
        "Twenty terms of the Neumann series, called exact.",
    ),
    (
        "last state's adjoint pinned to zero",
        estimators.LastStateTakenToBeZero,
        (*STATES, *GRADIENT, *FLOW),
        "The answer depends on which state has the last index.",
    ),
    (
        "sign of the implicit part",
        estimators.ImplicitSignFlipped,
        (*GRADIENT, *PULLBACK),
        "The implicit part points the other way.",
    ),
    ("∂f/∂x missing", estimators.DirectMissing, (*DIRECT, *GRADIENT), "The direct part is zero."),
    ("∂f/∂x twice", estimators.DirectTwice, (*DIRECT, *GRADIENT), "The direct part is counted twice."),
    (
        "implicit part missing",
        estimators.ImplicitMissing,
        (*GRADIENT, *PULLBACK),
        "The follower is taken not to react.",
    ),
    (
        "∂f/∂π clipped",
        estimators.GradientClippedByEntry,
        ("scaling_the_objective_scales_the_gradient", "a_number_per_state_changes_nothing", *GRADIENT),
        "Entries of ∂f/∂π beyond ±0.1 are clipped.",
    ),
    (
        "implicit part normalised",
        estimators.ImplicitNormalised,
        ("scaling_the_objective_scales_the_gradient", *GRADIENT, *PULLBACK),
        "The implicit part has length one.",
    ),
    (
        "∂f/∂π read in memory order",
        estimators.GradientFlattenedInMemoryOrder,
        LAYOUT,
        "A gradient in Fortran order is read as if it were in C order.",
    ),
    (
        "policy read in memory order",
        estimators.PolicyFlattenedInMemoryOrder,
        LAYOUT,
        "A policy in Fortran order is read as if it were in C order.",
    ),
    (
        "last component of x forgotten",
        estimators.ForgetsTheLastComponent,
        (*GRADIENT, *PULLBACK),
        "The implicit part's last entry is zero.",
    ),
    (
        "worth of zero in the transitions' part",
        estimators.WorthOfZero,
        (*GRADIENT, *PULLBACK),
        "The occupancy says that arriving anywhere is worth nothing.",
    ),
    (
        "γ missing in the worth of arriving",
        estimators.WorthNotDiscounted,
        GRADIENT,
        "The continuation is V, where γV belongs.",
    ),
    (
        "worth of the previous call",
        estimators.WorthOfThePreviousCall,
        WARM,
        "The transitions' part is taken at the values of the previous estimate.",
    ),
    (
        "worth without the entropy",
        estimators.WorthWithoutTheEntropy,
        GRADIENT,
        "The continuation is the policy's true return, not its regularised value.",
    ),
    (
        "transitions' part missing",
        estimators.TransitionsPartMissing,
        (*GRADIENT, *PULLBACK),
        "The occupancy has the part, and the implicit part has not.",
    ),
    (
        "initial distribution in the implicit part",
        estimators.InitialDistributionEnters,
        ("initial_distribution_enters_directly_only", *PULLBACK, *GRADIENT),
        "The follower's optimal policy does not depend on where it starts.",
    ),
    (
        "occupancy is the cotangent only",
        estimators.OccupancyIsTheCotangentOnly,
        (*PULLBACK, *FLOW),
        "The occupancy reported is not the one pulled back.",
    ),
    (
        "occupancy of the other sign",
        estimators.OccupancyOfTheOtherSign,
        (*PULLBACK, "occupancy_is_a_mixture_of_occupancies"),
        "The occupancy reported is minus the one pulled back; it obeys the flow equation all the same.",
    ),
    ("objective not reported", estimators.ObjectiveNotReported, ("objective_is_reported",), "The objective is zero."),
    (
        "objective of the previous call",
        estimators.ObjectiveOfThePreviousCall,
        ("objective_is_reported", *WARM),
        "The objective reported is that of the previous estimate.",
    ),
    ("no linear solves counted", estimators.CountsNoSolves, COST, "The cost says that the adjoint was free."),
    ("converged with NaN", estimators.ConvergedWithNaN, (*NON_FINITE, *FAILURE), "A gradient of NaN has converged."),
    (
        "raises where ∂f/∂π is NaN",
        estimators.RaisesOnNaN,
        (*FAILURE, *NON_FINITE),
        "A failure that a status should tell ends the run.",
    ),
    (
        "NaN taken for zero",
        estimators.NaNTakenForZero,
        (*FAILURE, *NON_FINITE),
        "The answer looks sound although ∂f/∂π is not finite.",
    ),
    ("gradient in single precision", estimators.SinglePrecision, FLOAT64, "Both parts are arrays of float32."),
    (
        "cotangent rounded to single precision",
        estimators.RoundedToSinglePrecision,
        (*GRADIENT, *FLOW, *NOTHING),
        "The gradient is float64, but only 24 bits of it are right.",
    ),
    (
        "policy mutated",
        estimators.MutatesThePolicy,
        MUTATION,
        "Exploration is mixed into the solution's policy where it stands.",
    ),
    ("x mutated by an estimator", estimators.MutatesX, MUTATION, "The leader's x is another one after the call."),
    (
        "policy of the object's last call",
        estimators.PolicyOfThePreviousCall,
        (*HIDDEN, *KEY),
        "The gradient is taken at the policy of the last call, which the object remembers.",
    ),
    (
        "policy of the previous estimate",
        estimators.PolicyCarried,
        WARM,
        "The gradient is taken at the policy of the previous estimate, which the carry remembers.",
    ),
    (
        "running average",
        estimators.RunningAverage,
        (*HIDDEN, *KEY),
        "The implicit part is averaged with that of the object's last call.",
    ),
    (
        "previous estimate taken for the answer",
        estimators.WarmStartTakenForTheAnswer,
        WARM,
        "Where there is a previous estimate it is returned.",
    ),
    (
        "dense kernels only in an estimator",
        estimators.DenseKernelsOnly,
        STORAGE,
        "It reads the stored probabilities as (S, A, S), and crashes where they are sparse.",
    ),
    (
        "a simulator asked for by an estimator",
        estimators.AsksForASimulator,
        REQUIRED,
        "It requires a model, and fails where there is nothing but a model.",
    ),
)

TRACKING_ESTIMATORS = _faults(
    "estimator",
    (
        "residual zero although never solved",
        lambda: estimators.NeverSolvedResidualZero(terms=3),
        RESIDUAL,
        "A few terms of a series, and a residual that says solved.",
    ),
    ("no products counted", estimators.CountsNoProducts, COST, "The cost says that the terms were free."),
    (
        "carried adjoint mutated",
        estimators.MutatesTheCarriedAdjoint,
        MUTATION,
        "The previous estimate's adjoint becomes this one's.",
    ),
    (
        "step counter in the object",
        estimators.StepCounterInTheObject,
        (*HIDDEN, *KEY),
        "How many terms a call takes depends on how often the object was called, which no carry tells.",
    ),
    (
        "adjoint tracked inside the object",
        estimators.TracksInsideTheObject,
        (*HIDDEN, *KEY, *REPEATED),
        "It goes on from what the object remembers, not from the carry.",
    ),
    (
        "never gets further (estimator)",
        lambda: estimators.NeverGetsFurther(terms=3),
        REPEATED,
        "Every call begins at zero, so repeated calls never converge.",
    ),
    (
        "starts at random (estimator)",
        estimators.StartsAtRandom,
        (*KEY, "calls_are_independent"),
        "A deterministic estimator draws from numpy's global generator.",
    ),
)

STOCHASTIC_ESTIMATORS = _faults(
    "estimator",
    (
        "implicit part 1 % too large",
        lambda: stochastic_estimators.ImplicitOnePercentTooLarge(groups=2048),
        UNBIASED,
        "A bias that only many samples show.",
    ),
    (
        "implicit part a fifth too large",
        stochastic_estimators.ImplicitAFifthTooLarge,
        UNBIASED,
        "The implicit part's expectation is 1.2 times what it should be.",
    ),
    (
        "sign of the sampled implicit part",
        stochastic_estimators.ImplicitSignFlipped,
        UNBIASED,
        "The implicit part points the other way.",
    ),
    (
        "direct part 1 % too large",
        lambda: stochastic_estimators.DirectOnePercentTooLarge(groups=2048),
        (*UNBIASED, *DIRECT),
        "A bias that only many samples show.",
    ),
    (
        "sampled ∂l/∂x missing",
        stochastic_estimators.DirectMissing,
        (*UNBIASED, *DIRECT),
        "The direct part is zero.",
    ),
    (
        "baseline knows the loss",
        stochastic_estimators.BaselineKnowsTheLoss,
        UNBIASED,
        "Subtracting the mean of n losses, one's own among them, leaves (n−1)/n of the implicit part.",
    ),
    (
        "discounted and geometric",
        stochastic_estimators.DiscountedAndGeometric,
        UNBIASED,
        "γ^t on top of a random length discounts twice.",
    ),
    (
        "geometric lengths one short",
        stochastic_estimators.GeometricLengthOneShort,
        UNBIASED,
        "Failures before the success are counted, not trials, so everything is γ times too small.",
    ),
    (
        "1/τ forgotten in the score",
        stochastic_estimators.TemperatureForgotten,
        UNBIASED,
        "The implicit part is τ times what it should be.",
    ),
    (
        "first visit only",
        stochastic_estimators.FirstVisitOnly,
        UNBIASED,
        "The scores of all steps but the first are left out.",
    ),
    (
        "visits discounted",
        lambda: stochastic_estimators.VisitsDiscounted(groups=512),
        UNBIASED,
        "The score of step h is weighed by 0.9^h.",
    ),
    (
        "first trajectory of a group only",
        stochastic_estimators.FirstTrajectoryOnly,
        UNBIASED,
        "The scores of a group's other trajectories are left out.",
    ),
    (
        "taken action from the state",
        stochastic_estimators.TakenActionFromTheState,
        UNBIASED,
        "Both continuations begin alike, so the implicit part's expectation is zero.",
    ),
    (
        "uniform policy drawn from",
        stochastic_estimators.UniformPolicy,
        UNBIASED,
        "The trajectories are not the follower's.",
    ),
    (
        "truncated at 3 and called unbiased",
        stochastic_estimators.TruncatedButUnbiased,
        (*UNBIASED, "bias_is_within_the_declared"),
        "Three steps of a continuation are not all of it.",
    ),
    (
        "bias bound understated by ten",
        stochastic_estimators.BiasBoundUnderstated,
        ("bias_is_within_the_declared",),
        "A single step, and a bound of γ/10.",
    ),
    (
        "bias bound of another length",
        stochastic_estimators.BiasBoundOfAnotherLength,
        ("bias_is_within_the_declared",),
        "A single step, and the bound of a hundred.",
    ),
    (
        "standard error halved",
        stochastic_estimators.StandardErrorHalved,
        COVERS,
        "The standard error is half of itself.",
    ),
    (
        "standard error divided by n",
        stochastic_estimators.StandardErrorOfTheMeanTwice,
        COVERS,
        "The spread of n blocks is divided by n, where √n belongs.",
    ),
    (
        "standard error zero",
        stochastic_estimators.StandardErrorZero,
        COVERS,
        "A noisy estimate that calls itself certain.",
    ),
    (
        "standard error of one coordinate",
        stochastic_estimators.StandardErrorOfOneCoordinate,
        COVERS,
        "All other coordinates are said to be certain.",
    ),
    (
        "smallest standard error for all",
        stochastic_estimators.StandardErrorOfTheImplicitSmallest,
        COVERS,
        "Each coordinate is told the most certain one's standard error.",
    ),
    (
        "samples under-reported (estimator)",
        stochastic_estimators.SamplesUnderReported,
        COST,
        "The continuations are not counted.",
    ),
    (
        "sampled gradient of NaN converged",
        stochastic_estimators.NotFiniteConverged,
        (*NON_FINITE, *FAILURE),
        "A gradient of NaN has converged.",
    ),
    (
        "sampled gradient in single precision",
        stochastic_estimators.SinglePrecision,
        FLOAT64,
        "Both parts are arrays of float32.",
    ),
    (
        "generator ignored",
        stochastic_estimators.IgnoresTheGenerator,
        (*UNBIASED, *COVERS),
        "Every call draws the same numbers, so no number of calls averages the error away.",
    ),
    (
        "an estimator seeds itself",
        stochastic_estimators.SeedsItself,
        KEY,
        "Its generator comes from the operating system's entropy.",
    ),
    (
        "generator in the object",
        stochastic_estimators.GeneratorInTheObject,
        (*HIDDEN, *KEY),
        "Later calls draw on from the first call's generator.",
    ),
    (
        "a sampling estimator peeks at the model",
        stochastic_estimators.PeeksAtTheModel,
        REQUIRED,
        "It requires a simulator only, and takes the policy from the model's solution.",
    ),
)

OPTIMIZERS = _faults(
    "optimizer",
    ("ascends", optimizers.Ascends, ("first_step_descends", "approaches_a_minimum"), "The step has the wrong sign."),
    (
        "implicit part ignored",
        optimizers.IgnoresTheImplicitPart,
        ("the_whole_gradient_is_used",),
        "Steps along the direct part only.",
    ),
    (
        "direct part ignored",
        optimizers.IgnoresTheDirectPart,
        ("the_whole_gradient_is_used",),
        "Steps along the implicit part only.",
    ),
    (
        "state not advanced",
        optimizers.StateNotAdvanced,
        ("steps_are_counted",),
        "The state that comes out is the one that went in.",
    ),
    ("steps forgotten", optimizers.StepsForgotten, ("steps_are_counted",), "The number of steps stays zero."),
    (
        "momentum in the object",
        optimizers.MomentumInTheObject,
        (*HIDDEN, *KEY, "zero_gradient_moves_nothing"),
        "The momentum is kept where no saved run has it.",
    ),
    ("x mutated by an optimiser", optimizers.MutatesX, MUTATION, "The step is taken in the array that was given."),
    (
        "gradient mutated",
        optimizers.MutatesTheGradient,
        MUTATION,
        "The hyper-gradient is clipped where it stands.",
    ),
    (
        "state's arrays mutated",
        optimizers.MutatesTheState,
        MUTATION,
        "The state before the step has the moments after it.",
    ),
    (
        "moments shared by all runs",
        optimizers.SharedMoments,
        ("calls_are_independent", *MUTATION, *KEY, "saved_and_restored_continues_identically"),
        "Two runs write into the same two arrays.",
    ),
    (
        "moves at zero gradient",
        optimizers.MovesAtZeroGradient,
        ("zero_gradient_moves_nothing",),
        "x decays towards the origin.",
    ),
    (
        "NaN at zero gradient",
        optimizers.UnitStepsAtZeroGradient,
        ("zero_gradient_moves_nothing",),
        "The gradient is divided by its length, be it zero.",
    ),
    ("x in single precision", optimizers.SinglePrecision, FLOAT64, "The next x is an array of float32."),
    (
        "first coordinate twice",
        optimizers.FirstCoordinateTwice,
        ("relabelling_coordinates_permutes_the_step",),
        "The coordinate with index 0 takes a double step.",
    ),
    (
        "last coordinate never moves",
        optimizers.LastCoordinateNeverMoves,
        ("relabelling_coordinates_permutes_the_step", "approaches_a_minimum"),
        "The last coordinate stays where it is.",
    ),
    (
        "stops short",
        optimizers.StopsShort,
        ("approaches_a_minimum",),
        "The steps shrink so fast that they cannot reach a minimum.",
    ),
    (
        "overshoots",
        optimizers.Overshoots,
        ("approaches_a_minimum",),
        "The step size is 2.2, where a curvature of one allows 2.",
    ),
    (
        "coordinates drawn",
        optimizers.DrawsACoordinate,
        (*KEY, "calls_are_independent", "relabelling_coordinates_permutes_the_step"),
        "Which coordinates move is drawn from numpy's global generator.",
    ),
)


def _by_policy(lower: Any = None, objective: Any = None, **fields: Any) -> Callable[[], Any]:
    return lambda: problems.judged_by_policy(lower and lower(), objective and objective(), **fields)


def _by_trajectories(lower: Any = None, objective: Any = None) -> Callable[[], Any]:
    return lambda: problems.judged_by_trajectories(lower and lower(), objective and objective())


FOLLOWERS = _faults(
    "problem",
    (
        "pullback misses a reward parameter",
        _by_policy(problems.PullbackMissesAParameter),
        PULLS,
        "The derivative by x_1 is zero.",
    ),
    (
        "pullback's sign of the transitions' part",
        _by_policy(problems.PullbackSignOfTheTransitions),
        PULLS,
        "The transitions' part points the other way.",
    ),
    (
        "pullback misses the transitions",
        _by_policy(problems.PullbackMissesTheTransitions),
        PULLS,
        "x is taken not to enter the transitions.",
    ),
    (
        "pullback misses the normalisation",
        _by_policy(problems.PullbackMissesTheNormalisation),
        PULLS,
        "The softmax is differentiated without its denominator.",
    ),
    (
        "pullback misses the initial distribution",
        _by_policy(problems.PullbackMissesTheInitialDistribution),
        PULLS,
        "x is taken not to enter ρ.",
    ),
    ("pullback at zero", _by_policy(problems.PullbackAtZero), PULLS, "The derivative is that at x = 0."),
    (
        "pullback clips",
        _by_policy(problems.PullbackClipped),
        (*LINEAR, *PULLS),
        "Weights beyond ±0.3 are clipped, so the pullback is not linear.",
    ),
    (
        "pullback adds a penalty",
        _by_policy(problems.PullbackWithAPenalty),
        (*LINEAR, *PULLS),
        "Of an occupancy of zero it makes x.",
    ),
    (
        "pullback reads in memory order",
        _by_policy(problems.PullbackInMemoryOrder),
        (*LAYOUT, *PULLS),
        "Weights in Fortran order are read as if they were in C order.",
    ),
    (
        "pullback mutates the occupancy",
        _by_policy(problems.PullbackMutatesTheOccupancy),
        MUTATION,
        "The occupancy is another one after it was pulled back.",
    ),
    (
        "model mutates x",
        _by_policy(problems.ModelMutatesX),
        (*MUTATION, *FUNCTION),
        "x is clipped where it stands.",
    ),
    (
        "model remembers",
        _by_policy(problems.ModelRemembers),
        FUNCTION,
        "The rewards grow with the number of times that they were asked for.",
    ),
    (
        "model draws",
        _by_policy(problems.ModelDraws),
        (*FUNCTION, *KEY),
        "The rewards are noisy, and come from numpy's global generator.",
    ),
    (
        "kernel's rows above one",
        _by_policy(problems.KernelRowsAboveOne),
        VALID,
        "Probabilities sum to 1.001, in a kernel that says it is one by construction.",
    ),
    (
        "kernel with a negative entry",
        _by_policy(problems.KernelWithANegativeEntry),
        VALID,
        "A probability is negative, though its row sums to one.",
    ),
    (
        "rewards not finite",
        _by_policy(problems.RewardsNotFinite),
        VALID,
        "A logarithm of x, where x may be negative, and is at the start.",
    ),
    (
        "initial distribution above one",
        _by_policy(problems.InitialDoesNotSumToOne),
        VALID,
        "ρ sums to 1.01.",
    ),
    (
        "simulator slips",
        _by_trajectories(problems.SimulatorSlips),
        SIMULATES,
        "The simulated kernel is not the model's.",
    ),
    (
        "simulator starts in state 0",
        _by_trajectories(problems.SimulatorStartsInStateZero),
        SIMULATES,
        "The model's ρ is uniform.",
    ),
    (
        "simulator of another x",
        _by_trajectories(problems.SimulatorOfAnotherX),
        SIMULATES,
        "The simulator pays the rewards at x = 0.",
    ),
    (
        "simulator of another discount",
        _by_trajectories(problems.SimulatorOfAnotherDiscount),
        SIMULATES,
        "The simulator's spec tells another γ than the model has.",
    ),
    (
        "simulator of another temperature",
        _by_trajectories(problems.SimulatorOfAnotherTemperature),
        SIMULATES,
        "The simulator's spec tells another τ than the model has.",
    ),
    (
        "simulator forgets the reference",
        _by_trajectories(problems.SimulatorForgetsTheReference),
        SIMULATES,
        "The simulator's spec has no μ, and the model has one.",
    ),
    (
        "simulator pays for the next state",
        _by_trajectories(problems.SimulatorPaysForTheNextState),
        SIMULATES,
        "The rewards are those of the state after the step.",
    ),
    (
        "simulator ends where states absorb",
        _by_trajectories(problems.SimulatorEndsWhereStatesAbsorb),
        SIMULATES,
        "A step into the absorbing state terminates, though the model goes on paying there.",
    ),
    (
        "simulator overstates visits",
        _by_trajectories(problems.SimulatorOverstatesVisits),
        VISITS,
        "The sums of visits are three tenths too large.",
    ),
    (
        "simulator cuts random lengths",
        _by_trajectories(problems.SimulatorCutsRandomLengths),
        VISITS,
        "A continuation of random length has two steps.",
    ),
    (
        "simulator adds up visits by itself",
        _by_trajectories(problems.SimulatorVisitsByItself),
        VISITS,
        "The generator that it is given is not used for continuations.",
    ),
    (
        "simulator seeds itself",
        _by_trajectories(problems.SimulatorSeedsItself),
        (*REPEATS, *KEY),
        "The generator that it is given is not used.",
    ),
    (
        "simulator keeps its generator",
        _by_trajectories(problems.SimulatorKeepsItsGenerator),
        (*REPEATS, *KEY),
        "It draws on from the first call's generator.",
    ),
)

LEADERS = _faults(
    "problem",
    ("∂f/∂π twice", _by_policy(None, problems.PolicyGradientTwice), OBJECTIVE, "∂f/∂π is twice what it should be."),
    (
        "∂f/∂π without the cross term",
        _by_policy(None, problems.PolicyGradientWithoutTheCross),
        OBJECTIVE,
        "The term that has both x and π is not differentiated by π.",
    ),
    ("∂f/∂x zero", _by_policy(None, problems.XGradientMissing), OBJECTIVE, "∂f/∂x is zero."),
    (
        "∂f/∂x without the cross term",
        _by_policy(None, problems.XGradientWithoutTheCross),
        OBJECTIVE,
        "The term that has both x and π is not differentiated by x.",
    ),
    (
        "objective mutates the policy",
        _by_policy(None, problems.LeaderMutatesThePolicy),
        MUTATION,
        "The policy is clipped where it stands.",
    ),
    (
        "objective remembers",
        _by_policy(None, problems.LeaderRemembers),
        (*OBJECTIVE, *KEY, "calls_are_independent"),
        "The value depends on the policies judged before.",
    ),
    (
        "loss gradient not averaged",
        _by_trajectories(None, problems.LossGradientNotAveraged),
        LOSS,
        "The gradient is summed over the groups.",
    ),
    (
        "loss gradient of the first group",
        _by_trajectories(None, problems.LossGradientOfTheFirstGroup),
        LOSS,
        "The other groups are left out.",
    ),
    (
        "loss gradient of another sign",
        _by_trajectories(None, problems.LossGradientOfAnotherSign),
        LOSS,
        "The costs' part of the gradient points the other way.",
    ),
    (
        "projection goes half-way",
        _by_policy(feasible_set=problems.HalfWay()),
        (*PROJECTION, *START),
        "Projecting twice goes further than projecting once.",
    ),
    (
        "projection onto the sphere",
        _by_policy(feasible_set=problems.OntoTheSphere()),
        PROJECTION,
        "The set is not convex: of two points' projections the middle is not in it.",
    ),
    (
        "projection not to the nearest point",
        _by_policy(feasible_set=problems.SimplexByDivision(), start=problems.np.full(problems.DIMENSION, 0.2)),
        PROJECTION,
        "Dividing by the sum lands on the simplex, but not at the nearest point.",
    ),
    (
        "projection in place",
        _by_policy(feasible_set=problems.ProjectsInPlace(), start=problems.np.full(problems.DIMENSION, 0.2)),
        (*MUTATION, *PROJECTION),
        "The point projected is another one afterwards.",
    ),
    (
        "start far outside",
        problems.far_start,
        START,
        "The start that is written down is not the one that runs begin at.",
    ),
    (
        "start from entropy",
        problems.start_from_entropy,
        (*KEY, *START),
        "The start does not depend on the generator that it is given.",
    ),
    ("start of another length", problems.start_of_another_length, START, "The start has one entry too many."),
    ("a measure of NaN", problems.measures_nan, MEASURES, "A figure of the report is not a number."),
    ("a measure of infinity", problems.measures_infinity, MEASURES, "One figure of two is infinite."),
    ("a measure that is an array", problems.measures_an_array, MEASURES, "A figure of the report is an array."),
)

FAULTS = [
    *EXACT_SOLVERS,
    *TRACKING_SOLVERS,
    *STOCHASTIC_SOLVERS,
    *EXACT_ESTIMATORS,
    *TRACKING_ESTIMATORS,
    *STOCHASTIC_ESTIMATORS,
    *OPTIMIZERS,
    *FOLLOWERS,
    *LEADERS,
]
