"""The entry points: check a component, a problem or an algorithm against every law that applies to its tags."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from hypothesis import strategies as st

from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import StepwiseObjective, TrajectoryObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import HyperGradientEstimator, LowerLevelSolver, Tags, UpperLevelOptimizer
from bilevelrl.sampling.solution import SupportsSampling
from bilevelrl.testing import laws as _laws
from bilevelrl.testing.law import LAWS, OPERATOR, AnyKind, Law, name_of
from bilevelrl.testing.patience import patience
from bilevelrl.testing.precise import PRECISE, learnable_problem
from bilevelrl.testing.report import BROKEN, EXPECTED, HOLDS, SKIPPED, UNEXPECTED, ChecksFailed, Outcome, Report
from bilevelrl.testing.search import Found, Hung, search, try_each, within
from bilevelrl.testing.strategies import bilevel_problems
from bilevelrl.validation.errors import InputError, UnknownNameError, kind_words, value_words
from bilevelrl.validation.fields import as_float, check_count

del _laws  # imported for the laws it enters

EXAMPLES = 50
FOR_STATISTICS = "for precise statistics"
DEADLINE = 60.0
PROTOCOLS: dict[Kind, Any] = {
    Kind.LOWER_LEVEL_SOLVER: LowerLevelSolver,
    Kind.HYPERGRADIENT_ESTIMATOR: HyperGradientEstimator,
    Kind.UPPER_LEVEL_OPTIMIZER: UpperLevelOptimizer,
}

Factory = Callable[[], Any]
Expected = Mapping[str, str]


def check_lower_level_solver(factory: Factory, **options: Any) -> Report:
    """Check a lower-level solver against every law of its tags; see `check` for the options.

    Args:
        factory: makes a fresh solver: a function, or its class if that needs no arguments.
        options: of `check`.

    Raises:
        ChecksFailed: if a law is broken, with the smallest example of each.
        InputError: if the factory does not make a solver, or the solver's tags contradict each other.
    """
    return check(factory, kind=Kind.LOWER_LEVEL_SOLVER, **options)


def check_hypergradient_estimator(factory: Factory, **options: Any) -> Report:
    """Check a hyper-gradient estimator against every law of its tags, like `check_lower_level_solver`."""
    return check(factory, kind=Kind.HYPERGRADIENT_ESTIMATOR, **options)


def check_upper_level_optimizer(factory: Factory, **options: Any) -> Report:
    """Check an upper-level optimizer against every law, like `check_lower_level_solver`."""
    return check(factory, kind=Kind.UPPER_LEVEL_OPTIMIZER, **options)


def check_algorithm(factory: Factory, **options: Any) -> Report:
    """Check a composed algorithm against the laws of runs; its components have checks of their own."""
    return check(factory, kind=Kind.ALGORITHM, **options)


def check_bellman_operator(operator: Callable[[Any, Any], Any], **options: Any) -> Report:
    """Check a function `(mdp, v) ↦ Backup`, such as `mdp.soft_backup`, against the laws of the soft Bellman operator.

    Args:
        operator: the function.
        options: of `check`.
    """
    return check(lambda: operator, kind=OPERATOR, **options)


def check_problem(problem: BilevelProblem, **options: Any) -> Report:
    """Check a bilevel problem against its laws: correct derivatives, and a simulator that agrees with the model.

    Args:
        problem: the problem.
        options: of `check`; a problem is examined at its start and around it, so no examples are drawn.
    """
    if not isinstance(problem, BilevelProblem):
        raise InputError("problem", kind_words(problem), "a BilevelProblem")
    return check(lambda: problem, kind=Kind.PROBLEM, **options)


def check(
    factory: Factory,
    *,
    kind: AnyKind | None = None,
    examples: int = EXAMPLES,
    problems: st.SearchStrategy[BilevelProblem] | None = None,
    laws: Iterable[str] | None = None,
    expected_failed_checks: Expected | None = None,
    deadline: float | None = None,
    seed: int = 0,
    shrink: bool = True,
    strict: bool = True,
    progress: Callable[[Outcome], None] | None = None,
) -> Report:
    """Check what a factory makes against every law that applies to it.

    Args:
        factory: makes a fresh subject, without arguments. It is called for every example.
        kind: what it makes; by default found from the subject.
        examples: the number of problems for each law; slow laws get a share of them.
        problems: a strategy that replaces the kit's own problems.
        laws: the names of the laws to try. Default: all that apply.
        expected_failed_checks: `{law: reason}` for laws that are known to be broken. A law on the list that holds is a
            failure, so that the list stays correct.
        deadline: seconds that a law may take with one problem before the subject is reported as hanging. Default: 60,
            times the environment's BILEVELRL_CHECK_PATIENCE, which also multiplies the kit's other limits in seconds.
        seed: the key of the random problems: another seed draws other problems.
        shrink: look for the smallest problem that breaks a law; False shows the first, which is faster.
        strict: raise if a law fails; False returns the report.
        progress: called with every outcome when it is known.

    Raises:
        ChecksFailed: if a law fails and `strict` is true.
        InputError: for a factory that cannot be called without arguments, raises, or makes something else; for tags
            that contradict each other or what the component requires.
        UnknownNameError: if no law has a given name.
    """
    check_count("examples", examples)
    check_count("seed", seed, at_least=0)
    deadline = DEADLINE * patience() if deadline is None else as_float(deadline)
    if not 0 < deadline < float("inf"):
        raise InputError("deadline", str(deadline), "a positive number of seconds")
    if laws is not None and (isinstance(laws, str) or not list(laws := list(laws))):
        raise InputError("laws", value_words(laws), "a list of at least one law's name")
    subject, kind = made_by(factory, kind, deadline)
    expected = dict(expected_failed_checks or {})
    chosen = _chosen(kind, laws, expected)
    outcomes, hung = list[Outcome](), ""
    for law in chosen:
        began = time.perf_counter()
        outcome = (
            Outcome(law.name, SKIPPED, detail=hung)
            if hung
            else _outcome(law, subject, factory, problems, examples, seed, deadline, shrink, expected)
        )
        outcome = attrs.evolve(outcome, seconds=time.perf_counter() - began)
        if outcome.violation is not None and outcome.violation.hung:
            hung = f"the subject hung in {law.name}"
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    report = Report(name_of(subject), kind, tuple(outcomes))
    if strict and report.failures:
        raise ChecksFailed(report)
    return report


def _outcome(
    law: Law,
    subject: Any,
    factory: Factory,
    problems: st.SearchStrategy[BilevelProblem] | None,
    examples: int,
    seed: int,
    deadline: float,
    shrink: bool,
    expected: Expected,
) -> Outcome:
    reason = law.why_not(subject)
    if reason:
        return _unasked(law, reason, expected)
    if law.problems == FOR_STATISTICS and problems is None:
        found = try_each(law, factory, _precise_for(law, subject), deadline=deadline)
        return _judged(law, subject, found, expected)
    drawn = drawn_for(law, subject) if problems is None or law.kind is Kind.PROBLEM else problems
    found = search(law, factory, drawn, examples=_count(law, examples), key=seed, deadline=deadline, shrink=shrink)
    return _judged(law, subject, found, expected)


def _count(law: Law, examples: int) -> int:
    """The number of problems for a law: its share of the budget."""
    if law.kind is Kind.PROBLEM:
        return 1
    return max(1, round(law.examples * examples))


def _judged(law: Law, subject: Any, found: Found, expected: Expected) -> Outcome:
    if found.violation is not None:
        found.violation.subject = f"{law.kind.value} {name_of(subject)!r}"
        result = EXPECTED if law.name in expected else BROKEN
        return Outcome(law.name, result, found.examples, detail=found.violation.summary, violation=found.violation)
    if found.reason:
        return _unasked(law, found.reason, expected)
    if law.name in expected:
        detail = f"it was expected to be broken ({expected[law.name]}), but holds: take it off the list"
        return Outcome(law.name, UNEXPECTED, found.examples, detail=detail)
    return Outcome(law.name, HOLDS, found.examples, detail=found.remark)


def _unasked(law: Law, reason: str, expected: Expected) -> Outcome:
    if law.name in expected:
        detail = f"it was expected to be broken ({expected[law.name]}), but does not apply ({reason})"
        return Outcome(law.name, UNEXPECTED, detail=detail)
    return Outcome(law.name, SKIPPED, detail=reason)


def _chosen(kind: AnyKind, names: Iterable[str] | None, expected: Expected) -> list[Law]:
    known = {name: law for (of, name), law in LAWS.items() if of is kind}
    for name in [*(names or ()), *expected]:
        if name not in known:
            raise UnknownNameError(f"law of a {kind.value}", name, known)
    return list(known.values()) if names is None else [known[name] for name in dict.fromkeys(names)]


# --- The subject


def made_by(factory: Factory, kind: AnyKind | None = None, deadline: float | None = None) -> tuple[Any, AnyKind]:
    """What a factory makes, and its kind; raises `InputError` if either is wrong."""
    if not callable(factory):
        raise InputError("factory", kind_words(factory), "a function that makes a fresh component, or its class")
    label = getattr(factory, "__name__", type(factory).__name__)
    deadline = DEADLINE * patience() if deadline is None else deadline
    made: list[Any] = []
    try:
        within(deadline, lambda: made.append(factory()))
    except Hung:
        expected = f"a component within the deadline of {deadline:g} s"
        raise InputError(f"what factory {label!r} makes", "nothing so far", expected) from None
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        expected = "a component: a factory is called without arguments, so give options in a lambda"
        raise InputError(f"what factory {label!r} makes", message, expected) from error
    subject = made[0]
    found = OPERATOR if kind is OPERATOR and callable(subject) else _kind_of(subject)
    if found is None or (kind is not None and found is not kind):
        wanted = kind.value if kind is not None else "solver, an estimator, an optimizer, a problem or an algorithm"
        missing = _missing(subject, kind)
        raise InputError(f"what factory {label!r} makes", kind_words(subject) + missing, f"a {wanted}")
    if found in (Kind.LOWER_LEVEL_SOLVER, Kind.HYPERGRADIENT_ESTIMATOR):
        _check_tags(subject)
    return subject, found


def _kind_of(subject: Any) -> Kind | None:
    if isinstance(subject, type):
        return None
    if isinstance(subject, BilevelProblem):
        return Kind.PROBLEM
    if all(hasattr(subject, part) for part in ("lower", "estimator", "upper", "run")):
        return Kind.ALGORITHM
    return next((kind for kind, protocol in PROTOCOLS.items() if isinstance(subject, protocol)), None)


def _missing(subject: Any, kind: AnyKind | None) -> str:
    if not isinstance(kind, Kind) or kind not in PROTOCOLS:
        return ""
    lacking = [member for member in ("name", *kind.members) if not hasattr(subject, member)]
    return f" without {', '.join(map(repr, lacking))}" if lacking else ""


def _check_tags(subject: Any) -> None:
    if not isinstance(subject.requires, type):
        expected = "a protocol: SupportsModel or SupportsSampling"
        raise InputError(f"requires of {name_of(subject)!r}", value_words(subject.requires), expected)
    label = f"tags of {name_of(subject)!r}"
    declared = getattr(subject, "tags", None)
    if not isinstance(declared, Tags):
        value = "not declared" if declared is None else kind_words(declared)
        raise InputError(label, value, "a bilevelrl.Tags, such as Tags('exact'), which decide the laws that apply")
    if declared.exact and subject.requires is SupportsSampling:
        raise InputError(
            label, "exact, of one that sees samples only", "unbiased or biased, or requires = SupportsModel"
        )
    if declared.exact and subject.requires is not SupportsModel:
        given = f"exact, of one that requires {subject.requires.__name__}"
        raise InputError(label, given, "requires = SupportsModel, or the kit cannot examine that")
    said = declared.bias_bound
    if said is not None and not declared.biased and float(said(0.5)) > 0:
        raise InputError(label, "not biased, with a bias_bound above zero", "Exactness.BIASED, or a bias_bound of 0")


# --- The problems


def drawn_for(law: Law, subject: Any) -> st.SearchStrategy[Any]:
    """The strategy of a law's problems, for a subject.

    A law names it: "any"; "moderate" (γ ≤ 0.9, τ ≥ 0.25), for differences; "quickly forgotten" (γ ≤ ½, τ ≥ 0.25), for
    slow iterations that must converge; "fully visited" (ρ > 0 everywhere, γ ≤ 0.9, 0.5 ≤ τ ≤ 5); "for learners" (the
    same, after a problem that reveals every error of a learner); "with a reference". A subject that estimates from
    trajectories gets objectives of trajectories; a subject that only samples gets rewards that depend on x.
    "For precise statistics" draws nothing: see `precise`.
    """
    if law.kind is Kind.PROBLEM:
        return st.just(_AT_ITS_START)
    return _strategy(law.problems, *_wishes(subject, law.kind))


def _precise_for(law: Law, subject: Any) -> list[BilevelProblem]:
    single = _requirement(subject, law.kind) is StepwiseObjective
    return [problem for problem in PRECISE if not single or problem.objective.trajectories == 1]


_AT_ITS_START = "the problem itself, at its start"


def _requirement(subject: Any, kind: AnyKind) -> Any:
    return getattr(subject.estimator if kind is Kind.ALGORITHM else subject, "requires_objective", None)


def _wishes(subject: Any, kind: AnyKind) -> tuple[int, bool]:
    """The largest number of trajectories of the objective (0: of the policy), and whether x may enter rewards only."""
    estimator = subject.estimator if kind is Kind.ALGORITHM else subject
    solver = subject.lower if kind is Kind.ALGORITHM else subject
    of_trajectories = {TrajectoryObjective: 2, StepwiseObjective: 1}.get(_requirement(subject, kind), 0)
    samples = any(getattr(part, "requires", SupportsModel) is not SupportsModel for part in (estimator, solver))
    return of_trajectories, samples


@functools.lru_cache(maxsize=64)
def _strategy(problems: str, of_trajectories: int, samples: bool) -> st.SearchStrategy[BilevelProblem]:
    options: dict[str, Any] = {"bounded": True}
    if of_trajectories:
        options |= {"objective": "trajectory", "max_trajectories": of_trajectories}
    elif samples:
        options |= {"parts": ("rewards",), "discount": st.sampled_from((0.5, 0.0, 0.9))}
    if problems == "moderate":
        options |= {"discount": st.sampled_from((0.5, 0.9, 0.0)), "temperature": st.sampled_from((1.0, 0.25, 5.0))}
    elif problems == "quickly forgotten":
        options |= {"discount": st.sampled_from((0.5, 0.0, 0.25)), "temperature": st.sampled_from((1.0, 0.25, 5.0))}
    elif problems in ("fully visited", "for learners"):
        discounts = st.sampled_from((0.5, 0.9, 0.0))
        options |= {"discount": discounts, "temperature": st.sampled_from((1.0, 0.5, 5.0)), "reachable": True}
    elif problems == "with a reference":
        options |= {"reference": True}
    drawn = bilevel_problems(**options)
    return st.just(learnable_problem()) | drawn if problems == "for learners" else drawn


# --- For pytest


def parametrize_with_checks(
    subjects: Sequence[Any],
    *,
    expected_failed_checks: Expected | Callable[[Any], Expected] | None = None,
    **options: Any,
) -> Any:
    """A pytest decorator: one test, with an id of its own, for each law and subject.

        @testing.parametrize_with_checks([MySolver, lambda: MyEstimator(step_size=0.1), my_problem])
        def test_laws(check):
            check()

    Args:
        subjects: factories as for `check`, and problems themselves.
        expected_failed_checks: `{law: reason}` for all subjects, or a function of the subject that returns it. Such a
            test is a strict `xfail`.
        options: of `check`.
    """
    import pytest

    parameters, named = [], dict[str, int]()
    others = {key: value for key, value in options.items() if key != "laws"}
    for given_subject in subjects:
        factory = _factory_of(given_subject)
        subject, kind = made_by(factory)
        known = dict(
            (expected_failed_checks(subject) if callable(expected_failed_checks) else expected_failed_checks) or {}
        )
        named[name_of(subject)] = count = named.get(name_of(subject), 0) + 1
        label = name_of(subject) if count == 1 else f"{name_of(subject)}#{count}"
        for law in _chosen(kind, options.get("laws"), known):
            if law.why_not(subject) and law.name not in known:
                continue
            reason = known.get(law.name)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=ChecksFailed)]
            one = functools.partial(_check_one, factory, kind, law.name, others)
            parameters.append(pytest.param(one, id=f"{label}-{law.name}", marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _factory_of(subject: Any) -> Factory:
    return (lambda: subject) if isinstance(subject, BilevelProblem) else subject


def _check_one(factory: Factory, kind: AnyKind, law: str, options: Mapping[str, Any]) -> Report:
    import pytest

    report = check(factory, kind=kind, laws=[law], **options)
    if report[law].result == SKIPPED:
        pytest.skip(report[law].detail)
    return report
