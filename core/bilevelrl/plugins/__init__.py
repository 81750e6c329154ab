"""The hooks of plugins, the discovery of installed plugins, and the registry of components by name.

No component may be implemented here, and no plugin imported except through its entry point.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
