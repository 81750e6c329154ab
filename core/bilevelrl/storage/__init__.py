"""Files: experiments, histories, checkpoints, and the directory of a run.

Files are not trusted: sizes and types are checked before anything is allocated or used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
