"""Files of runs: experiments, histories, checkpoints, datasets, and the directory of a run.

No file may be trusted: sizes and types must be checked before anything is allocated or used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
