"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .algorithm import (
    Algorithm as Algorithm,
)
from .callbacks import (
    Callback as Callback,
)
from .callbacks import (
    CallbackWarning as CallbackWarning,
)
from .callbacks import (
    RunFacts as RunFacts,
)
from .run import (
    Run as Run,
)
