"""The problem catalogue."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_problems.contract_design import ContractDesign
from bilevelrl_problems.inverse_rl import InverseRL
from bilevelrl_problems.kl_rlhf import KLRLHF
from bilevelrl_problems.preferences import GridworldPreferences, GymnasiumPreferences
from bilevelrl_problems.reward_shaping import FrozenLakeShaping, GymnasiumShaping
from bilevelrl_problems.stackelberg_game import StackelbergGame
from bilevelrl_problems.synthetic_quadratic import SyntheticQuadratic


@bl.hookimpl
def bilevelrl_problems() -> list[type]:
    """The paper's synthetic problem, shaping, preferences, demonstrations, games, contracts."""
    return [
        SyntheticQuadratic,
        FrozenLakeShaping,
        GymnasiumShaping,
        GridworldPreferences,
        GymnasiumPreferences,
        KLRLHF,
        InverseRL,
        StackelbergGame,
        ContractDesign,
    ]
