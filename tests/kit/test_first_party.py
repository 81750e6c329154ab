"""Everything registered passes through the kit's public door, with the options a user gets by default.

Stochastic estimators draw larger batches here than by default: the laws about means then resolve more in less time.
"""

from hypothesis import settings

import bilevelrl as bl
from bilevelrl import testing
from bilevelrl.plugins.components import Kind

EXAMPLES = max(3, min(10, settings.default.max_examples // 4))
LARGER_BATCHES = {"sobirl": {"groups": 4096, "truncation": 12}, "stoc-sobirl": {"batch": 4096}, "hpgd": {"batch": 4096}}


def factories(*kinds):
    """A factory for each registered component of those kinds."""
    for entry in bl.plugins.registry():
        if entry.kind in kinds and entry.plugin in FIRST_PARTY:
            options = LARGER_BATCHES.get(entry.name, {}) if entry.kind is Kind.HYPERGRADIENT_ESTIMATOR else {}
            yield lambda entry=entry, options=options: bl.plugins.registry().create(entry.kind, entry.name, options)


FIRST_PARTY = {plugin.name for plugin in bl.plugins.registry().plugins if plugin.first_party}
COMPONENTS = [
    *factories(Kind.LOWER_LEVEL_SOLVER, Kind.HYPERGRADIENT_ESTIMATOR, Kind.UPPER_LEVEL_OPTIMIZER, Kind.ALGORITHM),
    *(factory() for factory in factories(Kind.PROBLEM)),
]


@testing.parametrize_with_checks(COMPONENTS, examples=EXAMPLES)
def test_laws(check):
    check()


def test_the_librarys_own_operator():
    testing.check_bellman_operator(bl.mdp.soft_backup, examples=EXAMPLES)
