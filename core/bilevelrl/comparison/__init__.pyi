"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .budgets import (
    Budget as Budget,
)
from .budgets import (
    ExchangeRates as ExchangeRates,
)
from .contest import (
    compare as compare,
)
from .results import (
    Comparison as Comparison,
)
from .trials import (
    Checkpoint as Checkpoint,
)
from .trials import (
    ComparedRun as ComparedRun,
)
from .trials import (
    Standing as Standing,
)
