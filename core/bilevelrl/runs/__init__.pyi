"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .algorithm import (
    Algorithm as Algorithm,
)
from .callbacks import (
    Callback as Callback,
    CallbackWarning as CallbackWarning,
    RunFacts as RunFacts,
    StopRun as StopRun,
)
from .run import (
    Run as Run,
)
