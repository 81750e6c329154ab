"""The hooks are six, documented and used."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import bilevelrl as bl
from bilevelrl.cli import COMMANDS
from bilevelrl.plugins import hookspecs
from bilevelrl.plugins.components import COMMANDS_HOOK, OWN_COMMANDS, PluginFailure
from bilevelrl.plugins.discovery import plugin_manager

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "hooks.md"
HARBOUR = ROOT / "tests" / "distributions" / "harbour" / "bilevelrl_harbour" / "__init__.py"

HOOKS = {
    name: function
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if name.startswith(f"{hookspecs.PROJECT}_")
}


def signature(name):
    """A hook as its author writes it: `bilevelrl_problems() -> Iterable[type]`."""
    return name + str(inspect.signature(HOOKS[name])).replace("'", "")


def sections():
    """The page's sections that describe a hook: heading to text."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    split = (part.partition("\n") for part in parts)
    return {heading.strip("`"): body for heading, _, body in split if heading.startswith("`")}


def test_pluggy_knows_exactly_these_hooks():
    manager = plugin_manager()
    assert {name for name in vars(manager.hook) if not name.startswith("_")} == set(HOOKS)


def test_every_kind_of_component_has_its_own_hook():
    assert {kind.hook for kind in bl.plugins.Kind} | {COMMANDS_HOOK} == set(HOOKS)


def test_the_page_has_one_section_for_each_hook_headed_by_its_signature():
    assert set(sections()) == {signature(name) for name in HOOKS}


@pytest.mark.parametrize("name", HOOKS)
def test_a_section_tells_what_to_return_and_shows_a_line(name):
    text = sections()[signature(name)]
    members = next((kind.members for kind in bl.plugins.Kind if kind.hook == name), ())
    assert re.search(r"^Return ", text, flags=re.MULTILINE)
    assert re.search(r"^Example: `return \[.+\]`$", text, flags=re.MULTILINE)
    for member in members:
        assert f"`{member}" in text, f"the section does not mention the member {member!r}, which every class needs"


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_takes_no_argument_and_says_what_it_returns(name):
    assert not inspect.signature(HOOKS[name]).parameters
    assert inspect.getdoc(HOOKS[name])


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_used_by_a_first_party_plugin_and_by_the_example_for_strangers(name):
    for kind in bl.plugins.Kind:
        assert kind.hook != name or bl.plugins.registry().of_kind(kind), f"no installed plugin offers a {kind.value}"
    assert f"def {name}()" in HARBOUR.read_text(encoding="utf-8")


def test_the_page_names_every_stage_at_which_a_plugin_can_fail():
    stages = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    documented = re.search(r"stage: the step that failed: (.*)\.", inspect.getdoc(PluginFailure)).group(1)
    assert stages == re.findall(r'"(\w+)"', documented)


def test_commands_of_plugins_cannot_take_the_names_of_our_own():
    assert set(COMMANDS) <= OWN_COMMANDS
