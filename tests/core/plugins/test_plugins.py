"""Discovery: every way in which a plugin can fail stays its own affair."""

from __future__ import annotations

import importlib.metadata
import sys
import types
import warnings
from types import SimpleNamespace
from typing import ClassVar, Protocol

import attrs
import pytest

import bilevelrl as bl
from bilevelrl.plugins import discovery as plugins
from bilevelrl.plugins.discovery import LIMIT_VARIABLE, discover


@attrs.frozen
class Still:
    """A well-made optimizer that never moves."""

    name: ClassVar[str] = "still"

    def init(self, x):
        return bl.OptimizerState()

    def update(self, x, hyper, state):
        return x, state


def optimizer(name):
    """A class like `Still` under another name."""
    return type(name, (Still,), {"name": name})


@attrs.frozen
class FakeEntryPoint:
    """An installed entry point, without an installation."""

    name: str
    load: object
    distribution: str = "stranger"
    value: str = "module"

    @property
    def dist(self):
        return SimpleNamespace(name=self.distribution, version="1.0")


def module(**hooks):
    """A module with these functions as marked hook implementations."""
    made = types.ModuleType("a_plugin")
    for name, function in hooks.items():
        setattr(made, name, bl.hookimpl(function))
    return made


def nothing():
    """A hook that offers no component."""

    def hook():
        return []

    return hook


def offering(*components, hook="bilevelrl_upper_level_optimizers"):
    """A module that offers these components."""
    return module(**{hook: lambda: list(components)})


def entry(name, implementation, distribution="stranger"):
    """An entry point that loads to this module or object."""
    return FakeEntryPoint(name, lambda: implementation, distribution)


def raising(error):
    """A function that raises, for entry points that cannot be loaded."""

    def load():
        raise error

    return load


GOOD = entry("good", offering(Still))


def discovered_beside_a_good_one(bad):
    """The registry of a bad plugin and a good one, after the checks that hold for every bad plugin."""
    with pytest.warns(bl.plugins.PluginWarning) as caught:
        registry = discover(entry_points=[bad, GOOD])
    assert [plugin.name for plugin in registry.plugins] == ["good"], "a bad plugin took the good one with it"
    assert [component.name for component in registry] == ["still"], "a bad plugin left a component behind"
    (failure,) = registry.failures
    assert (failure.plugin, failure.distribution) == (bad.name, "stranger 1.0")
    (warning,) = caught
    assert str(warning.message) == str(failure)
    assert "\n" not in str(failure), "a failure is told in one line"
    return failure


class Panic(BaseException):
    """What a panic in a Rust extension looks like from Python: no `Exception`."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("not even this works")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("no module\nnamed x"), "ImportError: no module named x"),
        (SyntaxError("invalid syntax"), "SyntaxError: invalid syntax"),
        (AttributeError("no such object"), "AttributeError: no such object"),
        (SystemExit("no licence"), "SystemExit: no licence"),
        (Panic("index out of bounds"), "Panic: index out of bounds"),
        (Unprintable(), "Unprintable"),
        (StopIteration(), "StopIteration"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_plugin_that_cannot_be_imported_is_left_out(error, told):
    failure = discovered_beside_a_good_one(FakeEntryPoint("bad", raising(error)))
    assert (failure.stage, failure.error) == ("load", told)


def test_ctrl_c_while_plugins_load_still_stops_the_program():
    with pytest.raises(KeyboardInterrupt):
        discover(entry_points=[FakeEntryPoint("slow", raising(KeyboardInterrupt()))])


def test_a_misspelt_hook_is_told_with_the_right_spelling():
    """pluggy alone accepts an unknown hook in silence."""
    bad = module(bilevelrl_upper_level_optimizers=lambda: [optimizer("other")], bilevelrl_problem=nothing())
    failure = discovered_beside_a_good_one(entry("bad", bad))
    assert failure.stage == "register"
    assert "'bilevelrl_problem'; expected a known name; did you mean 'bilevelrl_problems'" in failure.error


def test_a_hook_of_a_later_version_can_be_declared_optional():
    """pluggy's own way for a plugin to serve several versions of its host."""
    made = offering(Still)
    made.bilevelrl_simulators = bl.hookimpl(optionalhook=True)(nothing())
    registry = discover(entry_points=[entry("modern", made)], strict=True)
    assert [component.name for component in registry] == ["still"]


def test_a_hook_with_an_argument_is_left_out():
    failure = discovered_beside_a_good_one(entry("bad", module(bilevelrl_problems=lambda configuration: [])))
    assert failure.stage == "register"
    assert "bilevelrl_problems" in failure.error
    assert "configuration" in failure.error


def test_a_hook_that_nobody_marked_is_told():
    """Forgetting the decorator on one hook of several would otherwise lose its components in silence."""
    bad = offering(optimizer("other"))
    bad.bilevelrl_problems = nothing()
    failure = discovered_beside_a_good_one(entry("bad", bad))
    assert failure.stage == "register"
    assert failure.error == "bilevelrl_problems is not marked; expected @bilevelrl.hookimpl above it"


def test_a_module_without_hooks_is_left_out():
    failure = discovered_beside_a_good_one(entry("bad", types.ModuleType("empty")))
    assert failure.stage == "register"
    assert failure.error.startswith("the number of hooks it implements is 0")
    assert "bilevelrl_lower_level_solvers" in failure.error


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), SystemExit("no licence"), Panic("unwrap")], ids=repr)
def test_a_hook_that_raises_is_left_out(error):
    failure = discovered_beside_a_good_one(entry("bad", module(bilevelrl_problems=raising(error))))
    assert failure.stage == "hooks"
    assert failure.error == "bilevelrl_problems: " + f"{type(error).__name__}: {error}".replace("\n", " ")


def test_a_generator_that_raises_midway_contributes_nothing():
    def half_done():
        yield optimizer("before")
        raise RuntimeError("midway")

    failure = discovered_beside_a_good_one(entry("bad", module(bilevelrl_upper_level_optimizers=half_done)))
    assert failure.stage == "hooks"
    assert failure.error == "bilevelrl_upper_level_optimizers: RuntimeError: midway"


def test_a_forgotten_return_is_told():
    """pluggy drops None from its results, so the components would be missing without a word."""
    failure = discovered_beside_a_good_one(entry("bad", module(bilevelrl_problems=lambda: None)))
    assert failure.stage == "hooks"
    assert failure.error == "bilevelrl_problems: its return value is None; expected an iterable of classes"


def test_a_hook_that_returns_one_class_instead_of_a_list_is_left_out():
    failure = discovered_beside_a_good_one(entry("bad", module(bilevelrl_problems=lambda: Still)))
    assert failure.stage == "hooks"
    assert "not iterable" in failure.error


def test_a_hook_may_return_any_iterable_and_even_an_empty_one():
    def one_by_one():
        yield Still
        yield optimizer("other")

    made = module(bilevelrl_upper_level_optimizers=one_by_one, bilevelrl_problems=nothing())
    registry = discover(entry_points=[entry("good", made)], strict=True)
    assert {component.name for component in registry} == {"still", "other"}


@attrs.frozen
class Nameless:
    def init(self, x): ...
    def update(self, x, hyper, state): ...


@attrs.frozen
class NameIsAField:
    name: str = "a-field"

    def init(self, x): ...
    def update(self, x, hyper, state): ...


class NotAttrs:
    name = "not-attrs"

    def init(self, x): ...
    def update(self, x, hyper, state): ...


@attrs.frozen
class NoUpdate:
    name: ClassVar[str] = "no-update"

    def init(self, x): ...


class LongRepr:
    def __repr__(self):
        return "first line\nsecond line"


@pytest.mark.parametrize(
    ("component", "told"),
    [
        (Nameless, "upper-level optimizer Nameless is without a name"),
        (NameIsAField, "upper-level optimizer NameIsAField is without a name"),
        (
            NotAttrs,
            "upper-level optimizer NotAttrs is not an attrs class; expected a class decorated with @attrs.frozen",
        ),
        (NoUpdate, "upper-level optimizer NoUpdate is without 'update'"),
        (Still(), "upper-level optimizer Still() is not an attrs class"),
        (LongRepr(), "upper-level optimizer first line second line is not an attrs class"),
        (None, "upper-level optimizer None is not an attrs class"),
    ],
    ids=["nameless", "name-is-a-field", "not-attrs", "member-missing", "instance", "long-repr", "none"],
)
def test_a_plugin_with_one_bad_component_contributes_nothing(component, told):
    failure = discovered_beside_a_good_one(entry("bad", offering(optimizer("fine"), component)))
    assert failure.stage == "components"
    assert failure.error.startswith(told)


class NotCheckable(Protocol):
    """A protocol without `@runtime_checkable`: isinstance raises."""


@pytest.mark.parametrize("requirement", ["SupportsModel", (bl.mdp.SupportsModel,), None, NotCheckable], ids=repr)
def test_a_requirement_that_isinstance_cannot_answer_is_left_out(requirement):
    """It would raise inside the advice on every other component, long after its plugin was loaded."""

    @attrs.frozen
    class Solver:
        name: ClassVar[str] = "solver"
        requires = requirement
        produces = bl.mdp.TabularSolution
        tags = bl.Tags("biased", deterministic=False)
        restore = staticmethod(bl.mdp.TabularSolution.restored)

        def solve(self, problem, x, warm_start, rng): ...

    failure = discovered_beside_a_good_one(entry("bad", offering(Solver, hook="bilevelrl_lower_level_solvers")))
    assert failure.stage == "components"
    assert "expected a class or a runtime-checkable protocol, such as SupportsModel" in failure.error


def test_two_components_of_one_name_are_told_with_both_plugins():
    failure = discovered_beside_a_good_one(entry("late", offering(Still, optimizer("fine"))))
    assert failure.stage == "components"
    assert "'still' is offered by plugin 'late' (stranger 1.0)" in failure.error
    assert "plugin 'good' (stranger 1.0) already has it" in failure.error


def test_one_plugin_with_two_components_of_one_name_is_left_out():
    failure = discovered_beside_a_good_one(entry("bad", offering(optimizer("double"), optimizer("double"))))
    assert failure.stage == "components"
    assert "'double'" in failure.error


def test_components_of_different_kinds_may_share_a_name():
    @attrs.frozen
    class Problem:
        name: ClassVar[str] = "still"

        def build(self): ...

    made = module(bilevelrl_upper_level_optimizers=lambda: [Still], bilevelrl_problems=lambda: [Problem])
    registry = discover(entry_points=[entry("good", made)], strict=True)
    assert registry.find(bl.plugins.Kind.UPPER_LEVEL_OPTIMIZER, "still").component is Still
    assert registry.find(bl.plugins.Kind.PROBLEM, "still").component is Problem


def test_first_party_plugins_win_a_clash_whatever_the_order_of_installation():
    first_party = entry("zebra", offering(optimizer("wanted")), distribution="bilevelrl")
    stranger = entry("aardvark", offering(optimizer("wanted")), distribution="aardvark")
    with pytest.warns(
        bl.plugins.PluginWarning, match=r"plugin 'aardvark' from aardvark 1\.0 was left out \(components\)"
    ):
        registry = discover(entry_points=[stranger, first_party])
    assert registry.find(bl.plugins.Kind.UPPER_LEVEL_OPTIMIZER, "wanted").plugin == "zebra"


def test_a_first_party_plugin_wins_its_entry_point_name_too():
    first_party = entry("same", offering(optimizer("ours")), distribution="bilevelrl")
    stranger = entry("same", offering(optimizer("theirs")), distribution="aardvark")
    with pytest.warns(bl.plugins.PluginWarning, match="the entry-point name is already used by bilevelrl"):
        registry = discover(entry_points=[stranger, first_party])
    assert [component.name for component in registry] == ["ours"]


def test_a_second_distribution_with_the_same_entry_point_name_is_told():
    """pluggy's own loader drops it without a word."""
    second = FakeEntryPoint("good", lambda: offering(optimizer("other")), "second")
    with pytest.warns(bl.plugins.PluginWarning):
        registry = discover(entry_points=[second, entry("good", offering(Still), "first")])
    (failure,) = registry.failures
    assert (failure.distribution, failure.stage) == ("second 1.0", "name")
    assert failure.error == "the entry-point name is already used by first 1.0"


def test_a_distribution_that_is_found_twice_is_one_distribution():
    """An editable install can sit on sys.path beside a copy of its metadata."""
    registry = discover(entry_points=[GOOD, attrs.evolve(GOOD)], strict=True)
    assert len(registry.plugins) == 1
    assert registry.failures == []


def test_the_remains_of_a_half_removed_distribution_are_told(tmp_path):
    """An interrupted removal leaves entry points without metadata: even their name cannot be asked for."""
    remains = tmp_path / "half_removed-1.0.dist-info"
    remains.mkdir()
    (remains / "entry_points.txt").write_text("[bilevelrl]\nhalf-removed = half_removed_module\n", encoding="utf-8")
    found = importlib.metadata.Distribution.at(remains).entry_points
    with pytest.warns(bl.plugins.PluginWarning, match="half-removed.*No module named 'half_removed_module'"):
        registry = discover(entry_points=[*found, GOOD])
    assert [plugin.name for plugin in registry.plugins] == ["good"]


def test_metadata_that_cannot_be_read_does_not_stop_discovery():
    class Unreadable(FakeEntryPoint):
        @property
        def dist(self):
            raise KeyError("Name")

    registry = discover(entry_points=[Unreadable("good", lambda: offering(Still))], strict=True)
    assert [plugin.distribution for plugin in registry.plugins] == ["an unknown distribution"]


def test_an_entry_point_may_name_an_object_instead_of_a_module():
    class Plugin:
        @bl.hookimpl
        def bilevelrl_upper_level_optimizers(self):
            return [Still]

    registry = discover(entry_points=[entry("object", Plugin())], strict=True)
    assert [component.name for component in registry] == ["still"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            FakeEntryPoint("bad", raising(ImportError("gone"))),
            r"'bad' from stranger 1\.0 .*\(load\): ImportError: gone",
        ),
        (entry("bad", module(bilevelrl_problems=raising(ValueError("no")))), r"\(hooks\): .*ValueError: no"),
        (entry("bad", offering(NotAttrs)), r"\(components\): .*not an attrs class"),
        (entry("good", offering(optimizer("other")), "zebra"), r"\(name\): .*already used"),
    ],
    ids=["load", "hooks", "components", "name"],
)
def test_strict_discovery_raises_at_the_first_failure(bad, told):
    with pytest.raises(bl.plugins.PluginError, match=told) as caught:
        discover(entry_points=[GOOD, bad], strict=True)
    if "already used" not in told:
        assert caught.value.__cause__ is not None, "the author of a plugin needs the traceback"


def test_only_the_plugins_that_are_asked_for_are_imported():
    never = FakeEntryPoint("never", raising(AssertionError("imported a plugin that nobody asked for")))
    registry = discover(entry_points=[never, GOOD], only=["good"], strict=True)
    assert [plugin.name for plugin in registry.plugins] == ["good"]


@pytest.mark.parametrize(
    ("limit", "loaded"),
    [("good", ["good"]), (" other , good,", ["good", "other"]), ("", [])],
    ids=["one", "spaces-and-commas", "none"],
)
def test_the_environment_limits_what_is_loaded(monkeypatch, limit, loaded):
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    other = entry("other", offering(optimizer("other")))
    never = FakeEntryPoint("never", raising(AssertionError("imported a plugin outside of the limit")))
    registry = discover(entry_points=[other, never, GOOD], strict=True)
    assert [plugin.name for plugin in registry.plugins] == loaded


def test_an_unknown_name_in_the_limit_is_told_with_the_close_match(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "god")
    with pytest.warns(bl.plugins.PluginWarning, match="'god'.*did you mean 'good'"):
        registry = discover(entry_points=[GOOD])
    assert registry.plugins == []


def test_what_the_caller_asks_for_beats_the_environment(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "other")
    assert [plugin.name for plugin in discover(entry_points=[GOOD], only=["good"], strict=True).plugins] == ["good"]


def test_the_first_party_plugins_load_strictly_through_the_same_entry_points():
    first_party = [
        found
        for found in importlib.metadata.entry_points(group="bilevelrl")
        if found.dist is not None and found.dist.name == "bilevelrl"
    ]
    registry = discover(entry_points=first_party, strict=True)
    assert {plugin.name for plugin in registry.plugins} == {found.name for found in first_party}
    assert all(registry.of_kind(kind) for kind in bl.plugins.Kind), "every kind has a first-party component"


@pytest.fixture
def own_registry(monkeypatch):
    """A registry of this test's own behind `bl.plugins.registry()`."""
    made = discover(entry_points=[GOOD], strict=True)
    monkeypatch.setattr(plugins, "registry", lambda: made)
    return made


def test_a_notebook_registers_an_object_without_an_entry_point(own_registry):
    class Notebook:
        @bl.hookimpl
        def bilevelrl_upper_level_optimizers(self):
            return [optimizer("from-a-notebook")]

    bl.register(Notebook(), "notebook")
    found = own_registry.find(bl.plugins.Kind.UPPER_LEVEL_OPTIMIZER, "from-a-notebook")
    assert (found.plugin, found.distribution) == ("notebook", "this process")


@pytest.mark.parametrize(
    ("implementation", "name", "told"),
    [
        (offering(optimizer("other")), "good", "'good': the name is already used by a loaded plugin"),
        (offering(Still), "late", r"\(components\): .*plugin 'good' .*already has it"),
        (offering(NotAttrs), "bad", r"\(components\): .*not an attrs class"),
        (module(bilevelrl_problem=nothing()), "bad", r"\(register\): .*did you mean 'bilevelrl_problems'"),
        (module(bilevelrl_problems=raising(OSError("gone"))), "bad", r"\(hooks\): bilevelrl_problems: OSError: gone"),
        (object(), "bad", r"\(register\): the number of hooks"),
    ],
    ids=["name", "clash", "component", "misspelt", "raising", "no-hook"],
)
def test_a_notebook_gets_an_error_and_no_half_plugin(own_registry, implementation, name, told):
    with pytest.raises(bl.plugins.PluginError, match=told):
        bl.register(implementation, name)
    assert [component.name for component in own_registry] == ["still"]
    assert [plugin.name for plugin in own_registry.plugins] == ["good"]


def test_a_corrected_plugin_can_be_registered_after_a_failed_attempt(own_registry):
    """A notebook's second try must not meet the remains of the first."""
    with pytest.raises(bl.plugins.PluginError):
        bl.register(offering(optimizer("mine"), NotAttrs), "notebook")
    bl.register(offering(optimizer("mine")), "notebook")
    assert own_registry.find(bl.plugins.Kind.UPPER_LEVEL_OPTIMIZER, "mine").plugin == "notebook"


def test_a_plugin_that_warns_when_imported_is_not_thereby_broken(tmp_path, monkeypatch):
    (tmp_path / "noisy_plugin_module.py").write_text(
        "import warnings\nimport bilevelrl as bl\nwarnings.warn('noise')\n"
        "@bl.hookimpl\ndef bilevelrl_problems():\n    return []\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "noisy_plugin_module", raising=False)
    found = importlib.metadata.EntryPoint("noisy", "noisy_plugin_module", "bilevelrl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry = discover(entry_points=[found], strict=True)
    assert [(plugin.name, plugin.distribution) for plugin in registry.plugins] == [("noisy", "an unknown distribution")]
