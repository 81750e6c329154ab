"""The exception of a broken law, and the comparisons that raise it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevelrl.validation.arrays import Array

SHOWN_ENTRIES = 12


class LawViolation(AssertionError):
    """A law does not hold: what was expected, what came, by how much, the formula, the smallest example.

    Attributes:
        what: the quantity, in words.
        expected: what the law requires.
        came: what the subject returned.
        off: by how much they differ, in words; empty if there is no number for it.
        law: the law's name; filled in by the law.
        formula: the statement of the law; filled in by the law.
        subject: the subject's name; filled in by the law.
        example: the problem as Python source that rebuilds it; filled in by the law.
        which: a label of the example, such as the smallest found.
        hung: whether a call did not return in time; the subject is then not called again.
    """

    def __init__(self, what: str, *, expected: object, came: object, off: str = "") -> None:
        super().__init__(what)
        self.what, self.expected, self.came, self.off = what, expected, came, off
        self.law = self.formula = self.subject = self.example = ""
        self.which = "example"
        self.hung = False

    def __str__(self) -> str:
        heading = f"law {self.law} does not hold for {self.subject}" if self.law else "a law does not hold"
        lines = [heading]
        lines += [f"  formula:  {self.formula}"] if self.formula else []
        lines += [f"  quantity: {self.what}", f"  expected: {words(self.expected)}", f"  came:     {words(self.came)}"]
        lines += [f"  off by:   {self.off}"] if self.off else []
        lines += [f"  {self.which}:", _indented(self.example)] if self.example else []
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """One line, for a table."""
        return " ".join(f"{self.what}: {self.off or f'came {words(self.came)}'}".split())


class NotApplicable(Exception):
    """A law does not apply to this subject or this problem; the message says why."""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def words(value: object) -> str:
    """A value in one short line."""
    if isinstance(value, np.ndarray) and value.size > SHOWN_ENTRIES:
        return f"an array {value.shape} from {value.min():.6g} to {value.max():.6g}"
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=9, separator=", ").replace("\n", "")
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def expect(what: str, holds: bool, *, expected: object, came: object, off: str = "") -> None:
    """Raise `LawViolation` unless `holds`."""
    if not holds:
        raise LawViolation(what, expected=expected, came=came, off=off)


def expect_close(what: str, came: Any, expected: Any, tolerance: float | Array) -> None:
    """Raise `LawViolation` unless `|came − expected| ≤ tolerance` everywhere; NaN is not close to anything."""
    answer, wanted = np.asarray(came, dtype=float), np.asarray(expected, dtype=float)
    if answer.shape != wanted.shape:
        raise LawViolation(f"the shape of {what}", expected=wanted.shape, came=answer.shape)
    allowed = np.broadcast_to(np.asarray(tolerance, dtype=float), answer.shape)
    with np.errstate(invalid="ignore"):
        miss = np.abs(answer - wanted)
    bad = ~(miss <= allowed)
    if not bad.any():
        return
    excess = np.where(np.isnan(miss), np.inf, miss) - allowed
    worst = np.unravel_index(int(np.argmax(np.where(bad, excess, -np.inf))), answer.shape)
    off = f"{miss[worst]:.3g} where {allowed[worst]:.3g} is allowed"
    if answer.ndim:
        off += f", at [{', '.join(str(int(i)) for i in worst)}]"
    raise LawViolation(what, expected=_number(wanted), came=_number(answer), off=off + _ratio(answer, wanted))


def expect_same(what: str, came: Any, expected: Any) -> None:
    """Raise `LawViolation` unless two values are the same, bit for bit; NaN is the same as NaN."""
    answer, wanted = np.asarray(came), np.asarray(expected)
    if answer.shape == wanted.shape and np.array_equal(answer, wanted, equal_nan=answer.dtype.kind == "f"):
        return
    off = ""
    if answer.shape == wanted.shape and answer.dtype.kind in "fiu" and answer.size:
        off = f"{float(np.abs(answer - wanted).max()):.3g} where nothing is allowed"
    raise LawViolation(what, expected=_number(wanted), came=_number(answer), off=off)


def _number(array: Any) -> object:
    return array if array.ndim else array.item()


def _ratio(came: Array, expected: Array) -> str:
    """A hint: a constant factor between the two is often the error itself (τ, γ, a sign)."""
    largest = float(np.abs(expected).max(initial=0.0))
    if not (np.isfinite(came).all() and np.isfinite(largest) and largest > 1e-290):
        return ""
    factor = float(np.vdot(expected / largest, came / largest) / np.vdot(expected / largest, expected / largest))
    if abs(factor - 1.0) > 1e-6 and np.allclose(came, factor * expected, rtol=1e-6, atol=1e-12):
        return f"; it is {factor:.6g} times what was expected"
    return ""
