"""The reference page of the kit lists exactly the laws that there are, and every public name, option and argument.

The tables of laws are made from `bilevelrl.testing.LAWS`. After a change of the laws write them anew:

    python tests/kit/test_reference_page.py --write
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import bilevelrl as bl
from bilevelrl import testing

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "testing.md"
BEGIN, END = "<!-- laws: begin -->\n", "<!-- laws: end -->\n"
FIRST = [
    bl.plugins.Kind.LOWER_LEVEL_SOLVER,
    bl.plugins.Kind.HYPERGRADIENT_ESTIMATOR,
    bl.plugins.Kind.UPPER_LEVEL_OPTIMIZER,
    bl.plugins.Kind.PROBLEM,
    bl.plugins.Kind.ALGORITHM,
]
STRATEGIES = [
    "bilevel_problems",
    "parametric_mdps",
    "points",
    "policies",
    "policy_objectives",
    "soft_mdps",
    "trajectory_objectives",
]


def tables() -> str:
    """A section with a table of laws for each kind of subject, as Markdown."""
    kinds = list(dict.fromkeys([*FIRST, *(kind for kind, _ in testing.LAWS)]))
    return "\n".join(section(kind) for kind in kinds)


def section(kind: Any) -> str:
    """The laws of one kind, in the order they are tried."""
    article = "an" if kind.value[0] in "aeiou" else "a"
    rows = [row(law) for (of, _), law in testing.LAWS.items() if of is kind]
    return "\n".join([f"### Laws of {article} {kind.value}", "", "| law | what it says |", "|---|---|", *rows, ""])


def row(law: testing.Law) -> str:
    """One law; a bar would end the cell."""
    formula = law.formula.replace("|", r"\|")
    return f"| `{law.name}` | {formula} |"


def listed() -> str:
    """The tables as the page has them."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def rewritten(page: str) -> str:
    """The page with the tables made anew; what is around them stays."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{tables()}\n{end}{after}"


def test_the_page_lists_exactly_the_laws_with_their_formulas() -> None:
    assert listed().strip() == tables().strip(), "run `python tests/kit/test_reference_page.py --write`"


def test_every_law_says_what_it_says() -> None:
    assert [name for (_, name), law in testing.LAWS.items() if not law.formula] == []


def test_every_public_name_of_the_kit_has_a_row() -> None:
    described = set(re.findall(r"^\| `(\w+)", PAGE.read_text(encoding="utf-8").partition(BEGIN)[0], re.MULTILINE))
    assert set(testing.__all__) <= described


@pytest.mark.parametrize("name", ["check", "parametrize_with_checks", *STRATEGIES])
def test_every_argument_is_in_the_section_of_its_function(name: str) -> None:
    heading = "Options" if name == "check" else "For pytest" if name == "parametrize_with_checks" else "Strategies"
    text = re.split(rf"^## {heading}$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    text = text.partition("\n## ")[0]
    parameters = inspect.signature(getattr(testing, name)).parameters.values()
    named = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name != "factory"]
    assert [argument for argument in named if f"`{argument}`" not in text] == []


def main(arguments: list[str]) -> int:
    """Write the page's tables, or say whether they are up to date; returns the exit status."""
    page = PAGE.read_text(encoding="utf-8")
    if arguments == ["--write"]:
        PAGE.write_text(rewritten(page), encoding="utf-8")
        return 0
    return int(rewritten(page) != page)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
