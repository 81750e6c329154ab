"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .callbacks import (
    CallbackWarning as CallbackWarning,
    RunFacts as RunFacts,
    StopRun as StopRun,
)
