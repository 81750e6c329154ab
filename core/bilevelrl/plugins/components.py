"""The registry of components by name, with the plugins that offer them."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bilevelrl.plugins.configuration import build, options_of
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.validation.errors import InputError, UnknownNameError, kind_words, value_words


class Kind(enum.Enum):
    """The kind of a component; the value is its name in messages and on the command line."""

    LOWER_LEVEL_SOLVER = "lower-level solver"
    HYPERGRADIENT_ESTIMATOR = "hyper-gradient estimator"
    UPPER_LEVEL_OPTIMIZER = "upper-level optimizer"
    PROBLEM = "problem"
    ALGORITHM = "algorithm"

    @property
    def hook(self) -> str:
        """The hook that offers components of this kind."""
        return f"bilevelrl_{self.name.lower()}s"

    @property
    def members(self) -> tuple[str, ...]:
        """The members that a class of this kind must have besides a name."""
        return _MEMBERS[self]


COMMANDS_HOOK = "bilevelrl_commands"

OWN_COMMANDS = frozenset({"run", "resume", "show", "compare", "sweep", "list", "check", "certify", "plugins"})
"""Names that commands of plugins cannot have."""

TYPES = frozenset({"requires", "requires_objective", "produces", "accepts"})
"""Members whose values are classes or runtime protocols."""

_MEMBERS = {
    Kind.LOWER_LEVEL_SOLVER: ("requires", "produces", "tags", "solve", "restore"),
    Kind.HYPERGRADIENT_ESTIMATOR: ("requires", "requires_objective", "accepts", "tags", "estimate"),
    Kind.UPPER_LEVEL_OPTIMIZER: ("init", "update"),
    Kind.PROBLEM: ("build",),
    Kind.ALGORITHM: ("build",),
}


@attrs.frozen
class Registered:
    """A component and the plugin that it comes from."""

    kind: Kind
    name: str
    component: type
    plugin: str
    distribution: str


@attrs.frozen
class Plugin:
    """A plugin that was loaded."""

    name: str
    distribution: str
    first_party: bool
    commands: tuple[str, ...] = ()


@attrs.frozen
class PluginFailure:
    """A plugin that was left out, with the reason.

    Args:
        plugin: its entry-point name.
        distribution: the installed distribution (and version) that it comes from.
        stage: the step that failed: "name", "load", "register", "hooks" or "components".
        error: the error, in one line.
    """

    plugin: str
    distribution: str
    stage: str
    error: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} from {self.distribution} was left out ({self.stage}): {self.error}"


class Registry:
    """A map from names to components. All components of a plugin are added, or none."""

    def __init__(self) -> None:
        self.plugins: list[Plugin] = []
        self.failures: list[PluginFailure] = []
        self.commands: dict[str, Any] = {}
        self._components: dict[tuple[Kind, str], Registered] = {}

    def __iter__(self) -> Iterator[Registered]:
        return iter(self._components.values())

    def of_kind(self, kind: Kind) -> list[Registered]:
        """All components of a kind, by name."""
        return sorted((entry for entry in self if entry.kind is kind), key=lambda entry: entry.name)

    def find(self, kind: Kind, name: str) -> Registered:
        """The component of that kind and name; raises `UnknownNameError` with the close matches."""
        if not isinstance(name, str):
            raise InputError(f"the name of {kind.value}", value_words(name), "a string")
        try:
            return self._components[kind, name]
        except KeyError:
            raise UnknownNameError(kind.value, name, (entry.name for entry in self.of_kind(kind))) from None

    def create(self, kind: Kind, name: str, options: Mapping[str, Any]) -> Any:
        """An instance: a configured component, or the result of a problem factory's or recipe's `build`."""
        made: Any = build(self.find(kind, name).component, options)
        if kind is Kind.PROBLEM:
            problem = _built(made, name)
            if not isinstance(problem, BilevelProblem):
                raise InputError(f"what problem {name!r} builds", kind_words(problem), "a BilevelProblem")
            return attrs.evolve(problem, name=name, configuration=options_of(made))
        if kind is Kind.ALGORITHM:
            algorithm = _built(made, name)
            if not all(hasattr(algorithm, role) for role in ("lower", "estimator", "upper")):
                raise InputError(f"what recipe {name!r} builds", kind_words(algorithm), "an Algorithm")
            return algorithm
        return made

    def add(self, plugin: Plugin, components: list[tuple[Kind, type]], commands: Sequence[Any] = ()) -> None:
        """Add everything that a plugin offers, or nothing; raises `InputError` if any of it is invalid."""
        entries: dict[tuple[Kind, str], Registered] = {}
        for kind, component in components:
            _check_component(kind, component)
            name: str = component.name  # type: ignore[attr-defined]
            taken = self._components.get((kind, name)) or entries.get((kind, name))
            if taken is not None:
                raise InputError(
                    f"{kind.value} {name!r}",
                    f"offered by plugin {plugin.name!r} ({plugin.distribution})",
                    f"another name, since plugin {taken.plugin!r} ({taken.distribution}) already has it",
                )
            entries[kind, name] = Registered(kind, name, component, plugin.name, plugin.distribution)
        added = _checked_commands(commands, plugin, self.commands)
        self._components.update(entries)
        self.commands.update(added)
        self.plugins.append(attrs.evolve(plugin, commands=tuple(added)))


def _checked_commands(commands: Sequence[Any], plugin: Plugin, known: Mapping[str, Any]) -> dict[str, Any]:
    """Commands by name; raises `InputError` if one is not a click command, or its name is taken."""
    added: dict[str, Any] = {}
    for command in commands:
        import click  # imported here, since plugins without commands do not need it

        if not isinstance(command, click.Command) or not command.name:
            raise InputError(f"a command of plugin {plugin.name!r}", kind_words(command), "a click.Command with a name")
        if command.name in known or command.name in added or command.name in OWN_COMMANDS:
            expected = "another name, since bilevelrl or another plugin has a command of that name"
            raise InputError(f"command {command.name!r} of plugin {plugin.name!r}", "taken", expected)
        added[command.name] = command
    return added


def _built(made: Any, name: str) -> Any:
    try:
        return made.build()
    except InputError:
        raise
    except (ValueError, OverflowError, MemoryError) as error:  # such as arrays larger than any memory
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the configuration of {name!r}", value_words(options_of(made)), f"options that it can build ({reason})"
        ) from error


def _check_component(kind: Kind, component: object) -> None:
    label = getattr(component, "__qualname__", repr(component))
    if not isinstance(component, type) or not attrs.has(component):
        raise InputError(f"{kind.value} {label}", "not an attrs class", "a class decorated with @attrs.frozen")
    if not isinstance(getattr(component, "name", None), str):
        raise InputError(f"{kind.value} {label}", "without a name", "a class attribute name: ClassVar[str]")
    for member in kind.members:
        if not hasattr(component, member):
            raise InputError(f"{kind.value} {label}", f"without {member!r}", "all members of its protocol")
        if member in TYPES:
            _check_type(f"{label}.{member}", getattr(component, member))


def _check_type(field: str, value: object) -> None:
    # isinstance checks a problem against this member of every registered component: one that cannot be checked would
    # break the advice on all the others.
    try:
        answers = isinstance(value, type) and isinstance(None, value) is not None
    except TypeError:
        answers = False
    if not answers:
        raise InputError(field, repr(value), "a class or a runtime-checkable protocol, such as SupportsModel")
