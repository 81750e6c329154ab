"""The page and the tests say the same: a section for every test, a test for every section."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from faults.page import Section, sections


def backing() -> dict[str, str]:
    """The tests of faults: their names, in order, and their bodies."""
    found = [
        (node.name, ast.unparse(node))
        for file in sorted(Path(__file__).parent.glob("test_when_*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), "two tests of one name"
    return dict(found)


def test_every_section_has_a_test_of_its_name_and_every_test_a_section() -> None:
    titled = [section.test for section in sections()]
    assert len(titled) == len(set(titled)), "two sections of one name"
    assert set(backing()) == set(titled)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.test)
def test_every_section_says_what_is_kept_and_how_to_go_on(section: Section) -> None:
    assert "\n- Kept: " in section.body
    assert "\n- Next: " in section.body


def test_every_test_looks_at_what_the_page_shows() -> None:
    """A test that takes its section and does not compare anything with it would back no words."""
    for name, body in backing().items():
        assert re.search(r"section\.check(_nothing_is_shown)?\(|\bcheck_\w+\(.*\bsection\b", body), name


def test_words_must_fit_but_for_the_wildcards() -> None:
    section = Section("A fault", "\n```text\na … c\n…\nend\n```\n")
    section.check("a b c\nanything\nat all\nend")
    section.check("a b c\nend\n")
    with pytest.raises(AssertionError, match="the page shows under 'A fault'"):
        section.check("a b d\nend")
    with pytest.raises(AssertionError, match="but nothing is to be seen"):
        section.check_nothing_is_shown()
