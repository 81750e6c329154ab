"""The problem catalogue."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_problems.four_rooms import FourRooms
from bilevelrl_problems.preferences import GridworldPreferences, GymnasiumPreferences
from bilevelrl_problems.reward_shaping import FrozenLakeShaping, GymnasiumShaping
from bilevelrl_problems.synthetic_quadratic import SyntheticQuadratic


@bl.hookimpl
def bilevelrl_problems() -> list[type]:
    """The paper's synthetic problem, reward shaping on published tables, rewards from preferences, incentives."""
    return [
        SyntheticQuadratic,
        FrozenLakeShaping,
        GymnasiumShaping,
        GridworldPreferences,
        GymnasiumPreferences,
        FourRooms,
    ]
