"""The kit is tested by what it catches: every planted fault by a law whose name fits, and no correct component."""

import pytest
from hypothesis import settings

from bilevelrl import testing
from bilevelrl.plugins.components import Kind
from kit.planted import CONTROLS, FAULTS
from slowness import slow_unless

KINDS = {
    "solver": Kind.LOWER_LEVEL_SOLVER,
    "estimator": Kind.HYPERGRADIENT_ESTIMATOR,
    "optimizer": Kind.UPPER_LEVEL_OPTIMIZER,
    "problem": Kind.PROBLEM,
}
QUICK = max(3, min(10, settings.default.max_examples // 4))
# Laws about means call an estimator again and again: of the faults that only they see, these show soonest.
SHOW_SOON = {"implicit part a fifth too large", "standard error zero"}
SLOW_LAWS = {"unbiased_to_one_percent", "standard_error_covers", "repeated_calls_converge"}


def fitting(fault):
    """The fault's laws that exist for its kind, in its order."""
    kind = KINDS[fault.kind]
    # The law on drawn problems last: it takes long, and sees less.
    return sorted((name for name in fault.law if (kind, name) in testing.LAWS), key=lambda name: name == "unbiased")


def titled(component):
    """The id of a fault or a control."""
    return f"{component.kind}: {component.name}"


def stands_for_its_law(fault):
    """Whether `make test` plants this fault: the first for each law of each kind."""
    law = fitting(fault)[0]
    if law in SLOW_LAWS:
        return fault.name in SHOW_SOON
    return fault is next(other for other in FAULTS if other.kind == fault.kind and fitting(other)[0] == law)


def is_quick(control):
    """Whether `make test` checks this control: the first of its kind, and all optimizers and problems."""
    first = next(other for other in CONTROLS if other.kind == control.kind)
    return control is first or control.kind in ("optimizer", "problem")


def test_there_are_faults_in_all_protocols():
    for kind in KINDS:
        assert sum(fault.kind == kind for fault in FAULTS) >= 15
    assert all(fitting(fault) for fault in FAULTS)


@pytest.mark.parametrize(
    "fault", slow_unless(stands_for_its_law, FAULTS), ids=lambda fault: f"{fault.kind}: {fault.name}"
)
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


@pytest.mark.parametrize(
    "control",
    slow_unless(is_quick, CONTROLS),
    ids=lambda control: f"{control.kind}: {control.name}",
)
def test_a_correct_component_breaks_no_law(control):
    testing.check(control.factory, kind=KINDS[control.kind], examples=QUICK)
