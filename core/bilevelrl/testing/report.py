"""The results of a check, law by law."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bilevelrl.testing.law import AnyKind
from bilevelrl.testing.violation import LawViolation
from bilevelrl.validation.errors import UnknownNameError

HOLDS, BROKEN, EXPECTED, UNEXPECTED, SKIPPED = (
    "holds",
    "broken",
    "broken, as expected",
    "holds, against expectation",
    "skipped",
)


@attrs.frozen(eq=False)
class Outcome:
    """The result of one law.

    Args:
        law: its name.
        result: "holds", "broken", "broken, as expected", "holds, against expectation" or "skipped".
        examples: the number of problems on which it held.
        seconds: the time that it took.
        detail: why it was skipped, or in one line how it was broken, or the law's remark.
        violation: how it was broken, in full.
    """

    law: str
    result: str
    examples: int = 0
    seconds: float = 0.0
    detail: str = ""
    violation: LawViolation | None = None

    @property
    def failed(self) -> bool:
        """Whether this result is a failure."""
        return self.result in (BROKEN, UNEXPECTED)


@attrs.frozen(eq=False)
class Report:
    """The outcomes of a check, in the order of the laws.

    Args:
        name: the subject's name.
        kind: the subject's kind.
        outcomes: one for each law.
    """

    name: str
    kind: AnyKind
    outcomes: tuple[Outcome, ...]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __getitem__(self, law: str) -> Outcome:
        known = {outcome.law: outcome for outcome in self.outcomes}
        if law not in known:
            raise UnknownNameError("law of this report", law, known)
        return known[law]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that are failures."""
        return [outcome for outcome in self.outcomes if outcome.failed]

    def __str__(self) -> str:
        counts = {result: sum(o.result == result for o in self.outcomes) for result in (HOLDS, EXPECTED, SKIPPED)}
        tally = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
        heading = f"{self.kind.value} {self.name!r}: {len(self.failures)} of {len(self.outcomes)} laws failed"
        lines = [f"{heading} ({tally})" if tally else heading]
        for outcome in self.failures:
            lines += ["", str(outcome.violation) if outcome.violation else f"law {outcome.law}: {outcome.detail}"]
        return "\n".join(lines)


class ChecksFailed(AssertionError):
    """At least one law failed; the message reports each, with its smallest example. `report` has all outcomes."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
