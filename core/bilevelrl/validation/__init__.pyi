"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .arrays import (
    Indices as Indices,
    maximum_norm as maximum_norm,
)
from .errors import (
    UnknownNameError as UnknownNameError,
    WorkerLost as WorkerLost,
)
from .fields import (
    is_choice as is_choice,
    is_flag as is_flag,
    is_integer as is_integer,
    is_real as is_real,
)
from .memory import (
    check_fits as check_fits,
)
from .notices import (
    AccuracyWarning as AccuracyWarning,
)
from .saved import (
    check_table as check_table,
    saved_array as saved_array,
    saved_count as saved_count,
    saved_policy as saved_policy,
)
