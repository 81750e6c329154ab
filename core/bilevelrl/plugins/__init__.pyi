"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .components import (
    Kind as Kind,
)
from .components import (
    Registered as Registered,
)
from .components import (
    Registry as Registry,
)
from .discovery import (
    PluginError as PluginError,
)
from .discovery import (
    PluginWarning as PluginWarning,
)
from .discovery import (
    discover as discover,
)
from .discovery import (
    register as register,
)
from .discovery import (
    registry as registry,
)
from .hookspecs import (
    hookimpl as hookimpl,
)
