"""Hooks, discovery of installed plugins, and the registry of components by name.

No component is implemented here, and no plugin is imported except through its entry point.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
