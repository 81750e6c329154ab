"""A property-test kit for solvers, estimators, optimizers, problems and algorithms. Needs `bilevelrl[testing]`.

    from bilevelrl import testing

    testing.check_hypergradient_estimator(MyEstimator)

    @testing.parametrize_with_checks([MyEstimator, MySolver])
    def test_laws(check):
        check()

Laws are functions of a subject and a problem (`testing.LAWS`), and Hypothesis strategies draw the problems.
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as _error:
    raise ImportError("bilevelrl.testing needs hypothesis; install bilevelrl[testing]") from _error

from bilevelrl.testing.checks import (
    check,
    check_algorithm,
    check_bellman_operator,
    check_hypergradient_estimator,
    check_lower_level_solver,
    check_problem,
    check_upper_level_optimizer,
    parametrize_with_checks,
)
from bilevelrl.testing.drawn import TableLoss, TanhReward
from bilevelrl.testing.law import LAWS, Law
from bilevelrl.testing.report import ChecksFailed, Outcome, Report
from bilevelrl.testing.source import source
from bilevelrl.testing.strategies import (
    bilevel_problems,
    parametric_mdps,
    points,
    policies,
    policy_objectives,
    soft_mdps,
    trajectory_objectives,
)
from bilevelrl.testing.violation import LawViolation, NotApplicable

__all__ = [
    "LAWS",
    "ChecksFailed",
    "Law",
    "LawViolation",
    "NotApplicable",
    "Outcome",
    "Report",
    "TableLoss",
    "TanhReward",
    "bilevel_problems",
    "check",
    "check_algorithm",
    "check_bellman_operator",
    "check_hypergradient_estimator",
    "check_lower_level_solver",
    "check_problem",
    "check_upper_level_optimizer",
    "parametric_mdps",
    "parametrize_with_checks",
    "points",
    "policies",
    "policy_objectives",
    "soft_mdps",
    "source",
    "trajectory_objectives",
]
