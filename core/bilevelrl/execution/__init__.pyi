"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .compilation import (
    compiled as compiled,
)
from .workers import (
    parallel_map as parallel_map,
)
