"""The paper's rivals, on the same problems and with the same cost units: AID, ITD, AMD, PBRL, direct-only."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_rivals.aid import ApproximateImplicit
from bilevelrl_rivals.amd import ForwardSensitivities
from bilevelrl_rivals.direct_only import DirectOnly
from bilevelrl_rivals.itd import IterativeDifferentiation
from bilevelrl_rivals.pbrl import ValuePenalty
from bilevelrl_rivals.recipes import AID, AMD, ITD, PBRL, DirectOnlyRecipe


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """One estimator for each rival."""
    return [DirectOnly, IterativeDifferentiation, ForwardSensitivities, ApproximateImplicit, ValuePenalty]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """Each rival with a follower and gradient descent."""
    return [DirectOnlyRecipe, ITD, AMD, AID, PBRL]
