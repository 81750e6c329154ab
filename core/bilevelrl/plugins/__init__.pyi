"""The public names of this package: read by type checkers, and by `__init__.py` to import each at its first use."""

from .components import (
    Kind as Kind,
)
from .configuration import (
    options_of as options_of,
)
from .discovery import (
    PluginError as PluginError,
    PluginWarning as PluginWarning,
    discover as discover,
    registry as registry,
)
