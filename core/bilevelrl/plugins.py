"""Discovery: from installed entry points to a registry, one isolated plugin at a time.

Every way in which a plugin can fail is confined to it: it is recorded, named in a warning, and everything else goes on
working. Each plugin gets a pluggy manager of its own, so that neither a raising hook, nor a failed registration, nor a
misspelt hook of one can touch another.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import warnings
from collections.abc import Iterable, Sequence

import pluggy

from bilevelrl import hookspecs
from bilevelrl.registry import Kind, Plugin, PluginFailure, Registry
from bilevelrl.validation import UnknownNameError

GROUP = "bilevelrl"
FIRST_PARTY = "bilevelrl"
"""The distribution whose plugins load first, and so win a clash."""

LIMIT_VARIABLE = "BILEVELRL_PLUGINS"


class PluginWarning(UserWarning):
    """A plugin was left out."""


class PluginError(RuntimeError):
    """A plugin failed, and discovery was strict."""


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
            commas) where it is set, else all.
        entry_points: what to load. Default: the installed ones of the group `bilevelrl`.
    """
    registry = Registry()
    found = list(importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points)
    found = _distinct(found)
    found.sort(key=lambda entry: (not _is_first_party(entry), entry.name, _distribution(entry)))
    wanted = _limit(only)
    if wanted is not None:
        names = {entry.name for entry in found}
        for name in wanted - names:
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
            _add(registry, Plugin(entry.name, distribution, _is_first_party(entry)), _load(entry))
        except _Failed as failure:
            record = PluginFailure(entry.name, distribution, failure.stage, str(failure))
            _record(registry, record, strict, failure.__cause__)
    return registry


@functools.cache
def registry() -> Registry:
    """The registry of this process, discovered at first use."""
    return discover()


def register(plugin: object, name: str) -> None:
    """Register a module or object with hook implementations, without an entry point: for notebooks and scripts.

    Raises:
        PluginError: where an installed plugin would have been left out with a warning.
    """
    if any(known.name == name for known in registry().plugins):
        raise PluginError(f"plugin {name!r}: the name is already used by a loaded plugin")
    try:
        _add(registry(), Plugin(name, "this process", first_party=False), plugin)
    except _Failed as failure:
        raise PluginError(f"plugin {name!r} ({failure.stage}): {failure}") from failure.__cause__


def plugin_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows the five hooks."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _distinct(entries: list[importlib.metadata.EntryPoint]) -> list[importlib.metadata.EntryPoint]:
    """Without exact repeats: a distribution that sits twice on sys.path is one distribution."""
    unique = {(entry.name, entry.value, _distribution(entry)): entry for entry in entries}
    return list(unique.values())


def _limit(only: Iterable[str] | None) -> set[str] | None:
    if only is not None:
        return set(only)
    listed = os.environ.get(LIMIT_VARIABLE)
    return None if listed is None else {name.strip() for name in listed.split(",") if name.strip()}


def _is_first_party(entry: importlib.metadata.EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == FIRST_PARTY


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _load(entry: importlib.metadata.EntryPoint) -> object:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # a plugin may fail in any way, even by leaving
        raise _Failed("load", _one_line(error)) from error


def _add(registry: Registry, plugin: Plugin, implementation: object) -> None:
    manager = plugin_manager()
    try:
        manager.register(implementation, name=plugin.name)
        manager.check_pending()
    except (Exception, SystemExit) as error:
        raise _Failed("register", _one_line(error)) from error
    callers = manager.get_hookcallers(implementation) or []
    if not callers:
        raise _Failed("register", "it implements no hook; is @bilevelrl.hookimpl missing?")
    components: list[tuple[Kind, type]] = []
    for kind in Kind:
        try:
            for offered in getattr(manager.hook, kind.hook)():
                components.extend((kind, component) for component in offered)
        except (Exception, SystemExit) as error:
            raise _Failed("hooks", f"{kind.hook}: {_one_line(error)}") from error
    try:
        registry.add(plugin, components)
    except Exception as error:
        raise _Failed("components", str(error)) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _record(registry: Registry, failure: PluginFailure, strict: bool, cause: BaseException | None = None) -> None:
    if strict:
        raise PluginError(str(failure)) from cause
    registry.failures.append(failure)
    warnings.warn(str(failure), PluginWarning, stacklevel=3)
