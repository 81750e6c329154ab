"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .budgets import (
    Budget as Budget,
    ExchangeRates as ExchangeRates,
)
from .results import (
    Comparison as Comparison,
)
from .trials import (
    Checkpoint as Checkpoint,
)
