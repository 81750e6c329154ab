"""The registry: names and options become components, and a wrong one is told in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.plugins.components import Plugin, Registry

if TYPE_CHECKING:
    from somewhere_only_type_checkers_know import Elsewhere

MINE = Plugin("mine", "my-plugin 1.0", first_party=False)


@attrs.frozen
class Mover:
    """An optimizer with an option of every plain type."""

    name: ClassVar[str] = "mover"

    step_size: float = attrs.field(validator=bl.validation.is_real(above=0.0))
    memory: int = attrs.field(default=3, validator=bl.validation.is_integer(at_least=1))
    momentum: bool = False
    rule: str = attrs.field(default="armijo", validator=bl.validation.is_choice("armijo", "wolfe"))
    limit: float | None = None
    _decay: float = 0.5

    def init(self, x):
        return bl.OptimizerState()

    def update(self, x, hyper, state):
        return x, state


@attrs.frozen
class Choosy:
    """An optimizer whose own checks know nothing of `InputError`."""

    name: ClassVar[str] = "choosy"

    pair: tuple[int, int] = (1, 2)
    weights: Any = None
    elsewhere: Elsewhere | None = None

    def __attrs_post_init__(self) -> None:
        if self.pair[0] >= self.pair[1]:
            raise ValueError("the pair must ascend")

    def init(self, x):
        return bl.OptimizerState()

    def update(self, x, hyper, state):
        return x, state


@attrs.frozen
class Coin:
    """A follower that picks one of two actions, and a leader who pays for the first."""

    name: ClassVar[str] = "coin"

    temperature: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        return bl.BilevelProblem(
            lower=bl.ParametricMDP(
                np.ones((1, 2, 1)), bl.parametric.TabularReward(np.zeros((1, 2))), 0.5, self.temperature
            ),
            objective=bl.objectives.QuadraticObjective(),
            name="what the factory calls it",
        )


@attrs.frozen
class EmptyPromise:
    """A factory and a recipe that build something else."""

    name: ClassVar[str] = "empty-promise"

    def build(self) -> Any:
        return {"not": "what was promised"}


KINDS = bl.plugins.Kind


@pytest.fixture
def registry():
    made = Registry()
    made.add(
        MINE,
        [
            (KINDS.UPPER_LEVEL_OPTIMIZER, Mover),
            (KINDS.UPPER_LEVEL_OPTIMIZER, Choosy),
            (KINDS.PROBLEM, Coin),
            (KINDS.PROBLEM, EmptyPromise),
            (KINDS.ALGORITHM, EmptyPromise),
        ],
    )
    return made


def rejected(registry, name, options, kind=KINDS.UPPER_LEVEL_OPTIMIZER):
    """The sentence with which these options are rejected."""
    with pytest.raises(bl.InputError) as caught:
        registry.create(kind, name, options)
    return str(caught.value)


def test_options_become_fields(registry):
    made = registry.create(KINDS.UPPER_LEVEL_OPTIMIZER, "mover", {"step_size": 0.1, "memory": 5, "rule": "wolfe"})
    assert made == Mover(step_size=0.1, memory=5, rule="wolfe")


def test_an_integer_is_a_number_and_numpy_numbers_are_numbers(registry):
    made = registry.create(KINDS.UPPER_LEVEL_OPTIMIZER, "mover", {"step_size": 1, "memory": np.int64(2)})
    assert (made.step_size, made.memory) == (1.0, 2)
    assert type(made.step_size) is float, "TOML and repr would otherwise show what the caller happened to pass"
    assert type(made.memory) is int


def test_a_private_field_is_set_by_its_public_name(registry):
    made = registry.create(KINDS.UPPER_LEVEL_OPTIMIZER, "mover", {"step_size": 1.0, "decay": 0.25})
    assert made == Mover(step_size=1.0, decay=0.25)


def test_an_optional_value_may_be_given_or_not(registry):
    for limit in (None, 2.0):
        options = {"step_size": 1.0, "limit": limit}
        assert registry.create(KINDS.UPPER_LEVEL_OPTIMIZER, "mover", options).limit == limit


def test_what_is_found_says_where_it_came_from(registry):
    found = registry.find(KINDS.UPPER_LEVEL_OPTIMIZER, "mover")
    assert (found.component, found.plugin, found.distribution) == (Mover, "mine", "my-plugin 1.0")


def test_components_are_listed_by_name(registry):
    assert [entry.name for entry in registry.of_kind(KINDS.UPPER_LEVEL_OPTIMIZER)] == ["choosy", "mover"]
    assert registry.of_kind(KINDS.LOWER_LEVEL_SOLVER) == []


def test_an_unknown_name_gets_the_close_matches(registry):
    told = rejected(registry, "muver", {})
    assert told == "upper-level optimizer is 'muver'; expected a known name; did you mean 'mover'?"


def test_an_unknown_name_unlike_any_gets_all_names(registry):
    told = rejected(registry, "zzz", {})
    assert told == "upper-level optimizer is 'zzz'; expected one of 'choosy', 'mover'"


def test_an_unknown_name_of_a_kind_that_has_none_says_so(registry):
    assert rejected(registry, "any", {}, KINDS.LOWER_LEVEL_SOLVER).endswith("expected nothing: no such name exists")


def test_a_name_is_looked_up_within_its_kind(registry):
    assert "'mover'" in rejected(registry, "mover", {}, KINDS.PROBLEM)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"step_sise": 0.1}, "an option of 'mover' is 'step_sise'; expected a known name; did you mean 'step_size'?"),
        ({"name": "other", "step_size": 1.0}, "an option of 'mover' is 'name'; expected one of"),
        ({}, "option 'step_size' of 'mover' is missing; expected a number"),
        ({"step_size": "0.1"}, "option 'step_size' of 'mover' is '0.1'; expected a number"),
        ({"step_size": True}, "option 'step_size' of 'mover' is True; expected a number"),
        ({"step_size": None}, "option 'step_size' of 'mover' is None; expected a number"),
        ({"step_size": [0.1]}, "option 'step_size' of 'mover' is [0.1]; expected a number"),
        ({"step_size": 0.1, "memory": 3.7}, "option 'memory' of 'mover' is 3.7; expected an integer"),
        ({"step_size": 0.1, "memory": 3.0}, "option 'memory' of 'mover' is 3.0; expected an integer"),
        ({"step_size": 0.1, "memory": True}, "option 'memory' of 'mover' is True; expected an integer"),
        ({"step_size": 0.1, "memory": "3"}, "option 'memory' of 'mover' is '3'; expected an integer"),
        ({"step_size": 0.1, "momentum": 1}, "option 'momentum' of 'mover' is 1; expected true or false"),
        ({"step_size": 0.1, "momentum": "yes"}, "option 'momentum' of 'mover' is 'yes'; expected true or false"),
        ({"step_size": 0.1, "rule": 3}, "option 'rule' of 'mover' is 3; expected a string"),
        ({"step_size": 0.1, "limit": "2"}, "option 'limit' of 'mover' is '2'; expected a number or None"),
        ({"step_size": 0.0}, "option 'step_size' of 'mover' is 0.0; expected a finite number above 0"),
        ({"step_size": float("nan")}, "option 'step_size' of 'mover' is nan; expected a finite number above 0"),
        ({"step_size": 0.1, "memory": 0}, "option 'memory' of 'mover' is 0; expected an integer of at least 1"),
        ({"step_size": 0.1, "rule": "wolf"}, "option 'rule' of 'mover' is 'wolf'; expected a known name; did you mean"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_told_by_field_value_and_what_was_expected(registry, options, told):
    """Nothing is coerced: a value that was meant otherwise must not become a number by accident."""
    assert rejected(registry, "mover", options).startswith(told)


def test_a_class_that_checks_with_plain_exceptions_is_understood_too(registry):
    told = rejected(registry, "choosy", {"pair": [2, 1]})
    assert told.startswith("the configuration of 'choosy' is {'pair': [2, 1]}; expected valid options")
    assert "the pair must ascend" in told


def test_options_of_no_plain_type_are_left_to_the_class(registry):
    weights = np.ones(3)
    made = registry.create(KINDS.UPPER_LEVEL_OPTIMIZER, "choosy", {"weights": weights, "elsewhere": "anything"})
    assert made.weights is weights
    assert made.elsewhere == "anything"


def test_a_problem_has_its_registered_name_and_remembers_its_options(registry):
    """A saved run names them, to be built again."""
    problem = registry.create(KINDS.PROBLEM, "coin", {"temperature": 2})
    assert (problem.name, problem.configuration) == ("coin", {"temperature": 2.0})


def test_a_factory_that_builds_no_problem_is_told(registry):
    told = rejected(registry, "empty-promise", {}, KINDS.PROBLEM)
    assert told == "what problem 'empty-promise' builds is a dict; expected a BilevelProblem"


def test_a_recipe_that_builds_no_algorithm_is_told(registry):
    told = rejected(registry, "empty-promise", {}, KINDS.ALGORITHM)
    assert told == "what recipe 'empty-promise' builds is a dict; expected an Algorithm"


def test_a_clash_adds_nothing_and_replaces_nothing(registry):
    other = Plugin("other", "other-plugin 2.0", first_party=False)
    newcomer = attrs.make_class("Newcomer", {}, bases=(Choosy,), class_body={"name": "newcomer"}, frozen=True)
    before = list(registry)
    with pytest.raises(bl.InputError, match=r"'mover' is offered by plugin 'other' \(other-plugin 2\.0\); .*'mine'"):
        registry.add(other, [(KINDS.UPPER_LEVEL_OPTIMIZER, newcomer), (KINDS.UPPER_LEVEL_OPTIMIZER, Mover)])
    assert list(registry) == before
    assert registry.plugins == [MINE]


@pytest.mark.parametrize(
    "kind", [kind for kind in bl.plugins.Kind if kind is not bl.plugins.Kind.PROBLEM], ids=lambda kind: kind.name
)
def test_every_installed_component_has_defaults_or_says_what_is_missing(kind):
    """The problems' own tests build the problems, some of which need an extra."""
    known = bl.plugins.registry()
    for entry in known.of_kind(kind):
        if any(field.default is attrs.NOTHING for field in attrs.fields(entry.component) if field.init):
            assert "is missing" in rejected(known, entry.name, {}, kind)
        else:
            made = known.create(kind, entry.name, {})
            assert made.name == entry.name
