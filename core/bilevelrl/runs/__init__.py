"""Complete runs of the outer loop, once or for several seeds, with callbacks, pictures and resumption.

The steps of an iteration must not be here and belong to `outer_loop`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
