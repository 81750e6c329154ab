"""A law: a function of a subject and a problem, with a name, a formula, and the subjects to which it applies."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any

import attrs

from bilevelrl.plugins.components import Kind
from bilevelrl.protocols import Exactness, Tags
from bilevelrl.testing.source import source
from bilevelrl.testing.violation import LawViolation, NotApplicable


class OperatorKind(enum.Enum):
    """The kinds of subjects that cannot be registered."""

    BELLMAN_OPERATOR = "Bellman operator"


OPERATOR = OperatorKind.BELLMAN_OPERATOR
AnyKind = Kind | OperatorKind

Condition = Callable[[Any], str]
"""Returns why a law does not apply to a subject; an empty string if it applies."""


@attrs.frozen(eq=False)
class Law:
    """A law, to be called with a subject and a problem; it returns, or raises `LawViolation`.

    Args:
        function: `(subject, problem) ↦ None`, or a remark for the report, such as its resolution.
        kind: the kind of subject that it applies to.
        conditions: each may return a reason why it does not apply to a subject.
        problems: the problems that are drawn for it: see `bilevelrl.testing.checks.drawn_for`.
        examples: the share of the budget of examples for a slow law; at least one example.
        statistical: whether it tests random numbers; a violation is then shown without shrinking.
    """

    function: Callable[[Any, Any], str | None]
    kind: AnyKind
    conditions: tuple[Condition, ...] = ()
    problems: str = "any"
    examples: float = 1.0
    statistical: bool = False

    @property
    def name(self) -> str:
        """The function's."""
        return str(self.function.__name__)

    @property
    def formula(self) -> str:
        """The statement of the law: the first paragraph of its docstring."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    def why_not(self, subject: Any) -> str:
        """Why the law does not apply to a subject; empty if it applies."""
        return next((reason for condition in self.conditions if (reason := condition(subject))), "")

    def __call__(self, subject: Any, problem: Any) -> str:
        """Check the subject against the law on one problem; returns a remark for the report, mostly empty.

        Raises:
            LawViolation: if the law is broken; says by how much and on which problem. An exception of the subject is a
                violation too, and its cause.
            NotApplicable: if the law does not apply to this subject or this problem.
        """
        reason = self.why_not(subject)
        if reason:
            raise NotApplicable(reason)
        try:
            return self.function(subject, problem) or ""
        except NotApplicable:
            raise
        except LawViolation as violation:
            self.describe(violation, subject, problem)
            raise
        except Exception as error:
            came = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raised = LawViolation("the call", expected="an answer", came=came)
            self.describe(raised, subject, problem)
            raise raised from error

    def describe(self, violation: LawViolation, subject: Any, problem: Any) -> None:
        """Add the law's name, its formula, the subject and the example to the violation."""
        violation.law, violation.formula = self.name, self.formula
        violation.subject = self.kind.value if subject is None else f"{self.kind.value} {name_of(subject)!r}"
        violation.example = "" if self.kind is Kind.PROBLEM else source(problem)


LAWS: dict[tuple[AnyKind, str], Law] = {}
"""Every law, by its kind of subject and its name, in the order in which they are tried."""


def law(
    kind: AnyKind,
    *conditions: Condition,
    problems: str = "any",
    examples: float = 1.0,
    statistical: bool = False,
) -> Callable[[Callable[[Any, Any], str | None]], Law]:
    """Make a function a law and enter it in `LAWS`; its docstring's first paragraph is its formula."""

    def enter(function: Callable[[Any, Any], str | None]) -> Law:
        made = Law(function, kind, conditions, problems, examples, statistical)
        LAWS[kind, made.name] = made
        return made

    return enter


def name_of(subject: Any) -> str:
    """The name of a subject."""
    return str(getattr(subject, "name", None) or getattr(subject, "__name__", None) or type(subject).__name__)


# --- Conditions, by tags


def tags_of(subject: Any) -> Tags:
    """A component's tags; without any it counts as stochastic and biased, the weakest tags."""
    declared = getattr(subject, "tags", None)
    return declared if isinstance(declared, Tags) else Tags(Exactness.BIASED, deterministic=False)


def exact(subject: Any) -> str:
    """Only for components with the tag exact."""
    return "" if tags_of(subject).exact else "its tags do not include exact"


def tracking(subject: Any) -> str:
    """Only for components with the tag tracking."""
    return "" if tags_of(subject).tracking else "its tags do not include tracking"


def deterministic(subject: Any) -> str:
    """Only for deterministic components."""
    return "" if tags_of(subject).deterministic else "it draws random numbers"


def stochastic(subject: Any) -> str:
    """Only for stochastic components."""
    return "it draws no random numbers" if tags_of(subject).deterministic else ""
