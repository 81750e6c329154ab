"""Tries a law on drawn problems: Hypothesis searches for one that breaks it, and shrinks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy

from bilevelrl.testing.law import Law
from bilevelrl.testing.patience import used_up
from bilevelrl.testing.violation import LawViolation, NotApplicable

SECONDS_A_LAW = 12.0
SECONDS_TO_SHRINK = 8.0
FEWEST_REJECTIONS = 20  # before a law counts as not applicable to a subject


class Hung(BaseException):
    """A call has not returned in time. Not an `Exception`, so that it cannot pass for the subject's own error."""


class _Enough(BaseException):
    """The time for a law is used up."""


@attrs.frozen
class Found:
    """The result of a search.

    Args:
        examples: the number of problems to which the law applied.
        violation: the smallest violation found, or None.
        reason: why the law applied to none of them, if it did not.
        remark: the law's remark on the last of them.
    """

    examples: int
    violation: LawViolation | None
    reason: str
    remark: str


def within(seconds: float, function: Callable[[], None]) -> None:
    """Call a function with a time limit.

    Python cannot stop a thread: one that hangs is left behind, as a daemon that does not keep the process alive.

    Raises:
        Hung: if it has not returned in time.
    """
    outcome: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True, name="bilevelrl-check")
    thread.start()
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if thread.is_alive():
        raise Hung
    if outcome:
        raise outcome[0]


def search(
    law: Law,
    factory: Callable[[], Any],
    problems: SearchStrategy[Any],
    *,
    examples: int,
    key: int,
    deadline: float,
    shrink: bool = True,
) -> Found:
    """Check a fresh subject against a law on each of up to `examples` drawn problems.

    Args:
        law: the law.
        factory: makes a subject.
        problems: the strategy.
        examples: the largest number of problems; fewer are tried if each takes long.
        key: the seed of the strategy.
        deadline: seconds that the law may take with one problem.
        shrink: whether to shrink the problem that breaks it.
    """
    began, first_broken = time.monotonic(), 0.0
    spoken, rejected, reason, remark, broken = 0, 0, "", "", list[LawViolation]()

    phases = [Phase.generate] if law.statistical or not shrink else [Phase.generate, Phase.shrink]

    def hold(problem: Any) -> None:
        nonlocal remark
        remark = law(factory(), problem)

    def attempt(problem: Any) -> None:
        nonlocal spoken, rejected, reason, first_broken
        if broken and used_up(SECONDS_TO_SHRINK, first_broken):
            raise _Enough
        if not broken and not law.statistical and used_up(SECONDS_A_LAW, began):
            raise _Enough
        try:
            within(deadline, lambda: hold(problem))
        except NotApplicable as error:
            reason, rejected = str(error), rejected + 1
            if not spoken and rejected >= max(examples, FEWEST_REJECTIONS):
                raise _Enough from None
            reject()
        except LawViolation as violation:
            first_broken = first_broken or time.monotonic()
            violation.which = "first example met" if len(phases) == 1 else "smallest example found"
            broken.append(violation)
            raise
        except Hung:
            broken.append(_hung(law, problem, deadline))
            raise
        spoken += not broken

    run = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )(seed(key)(given(problems)(attempt)))
    try:
        run()
    except (_Enough, Hung, LawViolation):
        pass
    except HypothesisException:
        # The violation itself reports an answer that is not reproducible. If nothing was broken, all problems were
        # rejected, for the recorded reason.
        if not broken and not reason:
            raise
    return Found(spoken, broken[-1] if broken else None, "" if spoken or broken else reason, remark)


def try_each(law: Law, factory: Callable[[], Any], problems: list[Any], *, deadline: float) -> Found:
    """Check a fresh subject against a law on each of a few given problems, in their order, up to the first violation.

    If the law cannot reach its resolution on one problem, the law is skipped, for any results on the others.
    """
    remarks: list[str] = []
    for spoken, problem in enumerate(problems):
        try:
            within(deadline, lambda problem=problem: remarks.append(law(factory(), problem)))  # type: ignore[misc]
        except NotApplicable as error:
            return Found(0, None, str(error), "")
        except LawViolation as violation:
            violation.which = "on the problem"
            return Found(spoken, violation, "", "")
        except Hung:
            return Found(spoken, _hung(law, problem, deadline), "", "")
    return Found(len(problems), None, "", remarks[-1] if remarks else "")


def _hung(law: Law, problem: Any, deadline: float) -> LawViolation:
    violation = LawViolation(
        "the time a call takes", expected=f"an answer within the deadline of {deadline:g} s", came="none so far"
    )
    law.describe(violation, None, problem)  # the subject's name is not read: that may hang too
    violation.hung = True
    return violation
