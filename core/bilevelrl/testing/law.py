"""A law: a function of a subject and a problem, with a name, a formula, and the subjects that it speaks about."""

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
    """What the kit examines besides what can be registered."""

    BELLMAN_OPERATOR = "Bellman operator"


OPERATOR = OperatorKind.BELLMAN_OPERATOR
AnyKind = Kind | OperatorKind

Condition = Callable[[Any], str]
"""Says why a law has nothing to say about a subject; the empty string where it has."""


@attrs.frozen(eq=False)
class Law:
    """A law, to be called with a subject and a problem; it returns, or raises `LawViolation`.

    Args:
        function: `(subject, problem) ↦ None`, or a remark for the report, such as how finely it looked.
        kind: what it speaks about.
        conditions: each may say why it does not apply to a subject.
        problems: which drawn problems it is tried on: see `bilevelrl.testing.checks.drawn_for`.
        examples: the share of the budget of examples that it gets, for laws that are slow; at least one example.
        statistical: whether it judges random numbers; a violation is then shown as it was met, not shrunk.
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
        """What the law says: the first paragraph of its docstring."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    def why_not(self, subject: Any) -> str:
        """Why the law does not apply to a subject; empty where it does."""
        return next((reason for condition in self.conditions if (reason := condition(subject))), "")

    def __call__(self, subject: Any, problem: Any) -> str:
        """Hold the subject to the law on one problem; a remark for the report, mostly empty.

        Raises:
            LawViolation: where it breaks it; says by how much and on which problem. An exception of the subject's own
                is a violation too, and its cause.
            NotApplicable: where the law has nothing to say about this subject or this problem.
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
        """Fill in what the law knows of its violation: its name, its formula, the subject and the example."""
        violation.law, violation.formula = self.name, self.formula
        violation.subject = self.kind.value if subject is None else f"{self.kind.value} {name_of(subject)!r}"
        violation.example = "" if self.kind is Kind.PROBLEM else source(problem)


LAWS: dict[tuple[AnyKind, str], Law] = {}
"""Every law, by the kind it speaks about and its name, in the order they are tried."""


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
    """How a subject is called."""
    return str(getattr(subject, "name", None) or getattr(subject, "__name__", None) or type(subject).__name__)


# --- Conditions, by tags


def tags_of(subject: Any) -> Tags:
    """What a component promises; one that declares nothing draws and is biased, which promises next to nothing."""
    declared = getattr(subject, "tags", None)
    return declared if isinstance(declared, Tags) else Tags(Exactness.BIASED, deterministic=False)


def exact(subject: Any) -> str:
    """Only for the exact."""
    return "" if tags_of(subject).exact else "it does not promise to be exact"


def tracking(subject: Any) -> str:
    """Only for those that converge over calls."""
    return "" if tags_of(subject).tracking else "it does not promise to converge over calls"


def deterministic(subject: Any) -> str:
    """Only for those that draw nothing."""
    return "" if tags_of(subject).deterministic else "it draws random numbers"


def stochastic(subject: Any) -> str:
    """Only for those that draw."""
    return "it draws no random numbers" if tags_of(subject).deterministic else ""
