"""Solver and estimator obey every law that applies to them."""

from bilevelrl_observatory import FeatureIteration, ObservedAdjoint

from bilevelrl import testing


@testing.parametrize_with_checks([FeatureIteration, ObservedAdjoint], examples=15)
def test_laws(check):
    check()
