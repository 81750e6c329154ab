"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .components import (
    Kind as Kind,
    Registered as Registered,
    Registry as Registry,
)
from .discovery import (
    PluginError as PluginError,
    PluginWarning as PluginWarning,
    discover as discover,
    register as register,
    registry as registry,
)
from .hookspecs import (
    hookimpl as hookimpl,
)
