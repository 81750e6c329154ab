"""The kit is tested by what it catches: every planted fault by a law whose name fits, and no correct component."""

import pytest

from bilevelrl import testing
from bilevelrl.plugins.components import Kind
from kit.planted import CONTROLS, FAULTS

KINDS = {
    "solver": Kind.LOWER_LEVEL_SOLVER,
    "estimator": Kind.HYPERGRADIENT_ESTIMATOR,
    "optimizer": Kind.UPPER_LEVEL_OPTIMIZER,
    "problem": Kind.PROBLEM,
}
QUICK = 10


def fitting(fault):
    """The fault's laws that exist for its kind, in its order."""
    kind = KINDS[fault.kind]
    # The law on drawn problems last: it takes long, and sees less.
    return sorted((name for name in fault.law if (kind, name) in testing.LAWS), key=lambda name: name == "unbiased")


def test_there_are_faults_in_all_protocols():
    for kind in KINDS:
        assert sum(fault.kind == kind for fault in FAULTS) >= 15
    assert all(fitting(fault) for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}: {fault.name}")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_planted_fault_is_caught_by_a_law_whose_name_fits(fault):
    """Within the default budget of examples; the smallest example is not looked for, to be quick."""
    for name in fitting(fault):
        report = testing.check(fault.factory, kind=KINDS[fault.kind], laws=[name], shrink=False, strict=False)
        if report.failures:
            violation = report[name].violation
            assert violation.law == name
            assert violation.formula
            assert violation.example or fault.kind == "problem"
            return
    pytest.fail(f"{fault.name}: {fault.why} No law of {fitting(fault)} was broken.")


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{control.kind}: {control.name}")
def test_a_correct_component_breaks_no_law(control):
    testing.check(control.factory, kind=KINDS[control.kind], examples=QUICK)
