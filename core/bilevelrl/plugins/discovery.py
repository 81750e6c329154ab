"""Discovery: makes the registry from installed entry points, each plugin separately.

A plugin that fails in any way is recorded and named in a warning, and all other plugins work. Each plugin has a pluggy
manager of its own, so that a hook that raises, a failed registration or a misspelt hook does not affect other plugins.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pluggy

from bilevelrl.execution.task_scope import in_worker
from bilevelrl.plugins import hookspecs
from bilevelrl.plugins.components import COMMANDS_HOOK, Kind, Plugin, PluginFailure, Registry
from bilevelrl.validation.errors import InputError, UnknownNameError
from bilevelrl.validation.notices import Notice

GROUP = "bilevelrl"
FIRST_PARTY = "bilevelrl"
"""The distribution whose plugins load first, and so keep a name that another plugin uses too."""

LIMIT_VARIABLE = "BILEVELRL_PLUGINS"


class PluginWarning(Notice):
    """A plugin was left out."""


class PluginError(RuntimeError):
    """A plugin failed in strict discovery."""


class _Failed(Exception):
    def __init__(self, stage: str, error: str) -> None:
        self.stage = stage
        super().__init__(error)


def discover(
    *,
    strict: bool = False,
    only: Iterable[str] | None = None,
    entry_points: Sequence[importlib.metadata.EntryPoint] | None = None,
) -> Registry:
    """A registry of everything that installed plugins offer.

    Args:
        strict: raise `PluginError` at the first plugin that fails, instead of a `PluginWarning`.
        only: entry-point names to load. Default: the environment variable `BILEVELRL_PLUGINS` (names separated by
            commas) if it is set, else all.
        entry_points: the entry points to load. Default: the installed ones of the group `bilevelrl`.
    """
    registry = Registry()
    found = list(importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points)
    found = _distinct(found)
    found.sort(key=lambda entry: (not _is_first_party(entry), entry.name, _distribution(entry)))
    wanted = _limit(only)
    if wanted is not None:
        names = {entry.name for entry in found}
        for name in sorted(wanted - names):
            error = str(UnknownNameError("the plugin to load", name, names))
            _record(registry, PluginFailure(name, LIMIT_VARIABLE, "name", error), strict)
        found = [entry for entry in found if entry.name in wanted]
    owners: dict[str, str] = {}
    for entry in found:
        distribution = _distribution(entry)
        try:
            if entry.name in owners:
                raise _Failed("name", f"the entry-point name is already used by {owners[entry.name]}")
            owners[entry.name] = distribution
            with _stage("load"):
                implementation = entry.load()
            _add(registry, Plugin(entry.name, distribution, _is_first_party(entry)), implementation)
        except _Failed as failure:
            record = PluginFailure(entry.name, distribution, failure.stage, str(failure))
            _record(registry, record, strict, failure.__cause__)
    return registry


@functools.cache
def registry() -> Registry:
    """The registry of this process, discovered at first use."""
    with warnings.catch_warnings() if in_worker() else contextlib.nullcontext():
        if in_worker():  # the calling process has already warned
            warnings.simplefilter("ignore", PluginWarning)
        return discover()


def register(plugin: object, name: str) -> None:
    """Register a module or object with hook implementations, without an entry point: for notebooks and scripts.

    Raises:
        PluginError: in all cases in which an installed plugin would be left out with a warning.
    """
    if any(known.name == name for known in registry().plugins):
        raise PluginError(f"plugin {name!r}: the name is already used by a loaded plugin")
    try:
        _add(registry(), Plugin(name, "this process", first_party=False), plugin)
    except _Failed as failure:
        raise PluginError(f"plugin {name!r} ({failure.stage}): {failure}") from failure.__cause__


def plugin_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows the six hooks."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _distinct(entries: list[importlib.metadata.EntryPoint]) -> list[importlib.metadata.EntryPoint]:
    """Entry points without duplicates: a distribution may be on sys.path twice."""
    unique = {(entry.name, entry.value, _distribution(entry)): entry for entry in entries}
    return list(unique.values())


def _limit(only: Iterable[str] | None) -> set[str] | None:
    if only is not None:
        return set(only)
    listed = os.environ.get(LIMIT_VARIABLE)
    return None if listed is None else {name.strip() for name in listed.split(",") if name.strip()}


def _is_first_party(entry: importlib.metadata.EntryPoint) -> bool:
    return _name_and_version(entry)[:1] == (FIRST_PARTY,)


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return " ".join(_name_and_version(entry)) or "an unknown distribution"


def _name_and_version(entry: importlib.metadata.EntryPoint) -> tuple[str, ...]:
    # An incompletely removed distribution has entry points but no metadata: its name is None, or raises.
    try:
        found = (entry.dist.name, entry.dist.version) if entry.dist is not None else ()
    except Exception:
        return ()
    return found if all(isinstance(word, str) for word in found) else ()


def _add(registry: Registry, plugin: Plugin, implementation: object) -> None:
    manager = plugin_manager()
    with _stage("register"):
        manager.register(implementation, name=plugin.name)
        _check_hooks(manager.get_hookcallers(implementation) or [], implementation)
    components: list[tuple[Kind, type]] = []
    for kind in Kind:
        with _stage("hooks", f"{kind.hook}: "):
            components += [(kind, component) for component in _offered(getattr(manager.hook, kind.hook))]
    with _stage("hooks", f"{COMMANDS_HOOK}: "):
        commands = _offered(getattr(manager.hook, COMMANDS_HOOK))
    with _stage("components"):
        registry.add(plugin, components, commands)


def _check_hooks(callers: Sequence[pluggy.HookCaller], implementation: object) -> None:
    """Raise for mistakes that pluggy ignores: a misspelt hook, and a hook without its mark."""
    hooks = [*(kind.hook for kind in Kind), COMMANDS_HOOK]
    for caller in callers:
        if not caller.has_spec() and not all(hook.optionalhook for hook in caller.get_hookimpls()):
            raise UnknownNameError("the name of a hook", caller.name, hooks)
    marked = {caller.name for caller in callers}
    for hook in hooks:
        if hook not in marked and hasattr(implementation, hook):
            raise InputError(hook, "not marked", "@bilevelrl.hookimpl above it")
    if not marked:
        raise InputError("the number of hooks it implements", "0", f"at least one of {', '.join(hooks)}")


def _offered(caller: pluggy.HookCaller) -> list[Any]:
    answers = caller()
    if caller.get_hookimpls() and not answers:  # pluggy drops None, so a forgotten `return` would go unnoticed
        raise InputError("its return value", "None", "an iterable of classes")
    return [component for answer in answers for component in answer]


@contextlib.contextmanager
def _stage(stage: str, prefix: str = "") -> Iterator[None]:
    """Turn any exception of a plugin's code into `_Failed`."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise SystemExit, and a panic in Rust is not an Exception either
        raise _Failed(stage, prefix + _one_line(error)) from error


def _one_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # the exception is the plugin's own class
        text = ""
    if isinstance(error, InputError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _record(registry: Registry, failure: PluginFailure, strict: bool, cause: BaseException | None = None) -> None:
    if strict:
        raise PluginError(str(failure)) from cause
    registry.failures.append(failure)
    warnings.warn(str(failure), PluginWarning, stacklevel=3)
