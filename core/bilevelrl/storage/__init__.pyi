"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .checkpoint import (
    CheckpointWarning as CheckpointWarning,
)
from .experiment import (
    Experiment as Experiment,
)
from .history import (
    History as History,
)
from .preference_files import (
    read_preferences as read_preferences,
    write_preferences as write_preferences,
)
