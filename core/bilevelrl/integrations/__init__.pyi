"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .gymnasium_simulator import (
    GymnasiumWorld as GymnasiumWorld,
)
from .gymnasium_tables import (
    absorbing_states as absorbing_states,
    from_gymnasium as from_gymnasium,
)
from .tensorboard import (
    TensorBoard as TensorBoard,
)
