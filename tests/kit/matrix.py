"""Writes docs/reference/law-matrix.md: every registered component and every planted fault against every law.

    make laws

Takes some minutes: everything registered with the default budget of examples, every planted fault with a small one.
"""

import concurrent.futures
import os
import sys
import warnings
from pathlib import Path

import bilevelrl as bl
from bilevelrl import testing
from bilevelrl.plugins.components import Kind
from kit.planted import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "law-matrix.md"
KINDS = {
    "solver": Kind.LOWER_LEVEL_SOLVER,
    "estimator": Kind.HYPERGRADIENT_ESTIMATOR,
    "optimizer": Kind.UPPER_LEVEL_OPTIMIZER,
    "problem": Kind.PROBLEM,
}
EXAMPLES_FOR_FAULTS = 15
MARKS = {"holds": "✓", "skipped": "", "broken": "✗"}


def checked(kind_and_name):
    """The report of a registered component, in a form that travels between processes."""
    kind, name = kind_and_name
    report = testing.check(lambda: bl.plugins.registry().create(kind, name, {}), kind=kind, strict=False)
    seconds = sum(outcome.seconds for outcome in report)
    return name, {outcome.law: outcome.result for outcome in report}, seconds


def caught(index):
    """The laws that a planted fault breaks: those meant to catch it get the full budget, all others a small one."""
    fault = FAULTS[index]
    kind = KINDS[fault.kind]
    subject = fault.factory()
    broken = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for (of, name), law in testing.LAWS.items():
            meant = name in fault.law
            if of is not kind or law.why_not(subject) or (law.statistical and not meant):
                continue
            examples = 50 if meant and not broken else EXAMPLES_FOR_FAULTS
            report = testing.check(fault.factory, kind=kind, laws=[name], examples=examples, shrink=False, strict=False)
            if report.failures:
                broken.append(name)
    return index, broken


def component_tables(results):
    """One table a kind: laws down, components across."""
    for kind in Kind:
        rows = {name: outcomes for (of, name), (outcomes, _) in results.items() if of is kind}
        laws = [name for (of, name) in testing.LAWS if of is kind]
        yield f"### {kind.value}s\n"
        yield "| law | " + " | ".join(f"`{name}`" for name in rows) + " |"
        yield "|---" * (len(rows) + 1) + "|"
        for law in laws:
            yield f"| `{law}` | " + " | ".join(MARKS[outcomes[law]] for outcomes in rows.values()) + " |"
        took = ", ".join(f"`{n}` {s:.0f} s" for (of, n), (_, s) in results.items() if of is kind)
        yield f"\nTime taken, two at a time on two cores: {took}.\n"


def fault_tables(broken):
    """One table a kind: the fault, and the laws that it breaks; those meant to catch it in bold."""
    for label in KINDS:
        yield f"### {label}s\n"
        yield "| fault | laws that it breaks |"
        yield "|---|---|"
        for index, fault in enumerate(FAULTS):
            if fault.kind == label:
                laws = [f"**{name}**" if name in fault.law else name for name in broken[index]]
                yield f"| {fault.name.replace('|', '∣')} | {', '.join(laws) or '(none)'} |"
        yield ""


def main():
    kinds = [(entry.kind, entry.name) for kind in Kind for entry in bl.plugins.registry().of_kind(kind)]
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        results = {
            key: (outcomes, seconds)
            for key, (_, outcomes, seconds) in zip(kinds, pool.map(checked, kinds), strict=True)
        }
        broken = dict(pool.map(caught, range(len(FAULTS))))
    missed = [fault.name for index, fault in enumerate(FAULTS) if not set(broken[index]) & set(fault.law)]
    lines = [
        "# Laws against components and faults",
        "",
        "`make laws` writes this page. [The property-test kit](testing.md) states the laws.",
        "",
        "## Everything registered",
        "",
        "With default options and the default budget: ✓ holds, ✗ broken, empty if the law does not apply or would need",
        "larger batches than the default ones.",
        "",
        *component_tables(results),
        "## Planted faults",
        "",
        f"`tests/kit/planted` contains {len(FAULTS)} components with one fault each; the tests check them all. Laws",
        f"that are meant to detect a fault are in bold. The other laws get {EXAMPLES_FOR_FAULTS} examples here; laws",
        "about random numbers get none.",
        f"Not detected: {'; '.join(missed)}." if missed else "Every fault is detected by a law meant for it.",
        "",
        *fault_tables(broken),
    ]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    sys.stdout.write(
        f"{PAGE.relative_to(ROOT)}: {len(results)} components, {len(FAULTS)} faults, {len(missed)} missed\n"
    )


if __name__ == "__main__":
    main()
