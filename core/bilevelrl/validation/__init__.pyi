"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .arrays import (
    Array as Array,
)
from .arrays import (
    Indices as Indices,
)
from .arrays import (
    maximum_norm as maximum_norm,
)
from .errors import (
    IncompatibleError as IncompatibleError,
)
from .errors import (
    InputError as InputError,
)
from .errors import (
    UnknownNameError as UnknownNameError,
)
from .errors import (
    WorkerLost as WorkerLost,
)
from .fields import (
    is_choice as is_choice,
)
from .fields import (
    is_flag as is_flag,
)
from .fields import (
    is_integer as is_integer,
)
from .fields import (
    is_real as is_real,
)
from .memory import (
    check_fits as check_fits,
)
from .notices import (
    AccuracyWarning as AccuracyWarning,
)
