"""bilevelrl: a plugin framework for bilevel reinforcement learning.

The public names are listed in `__init__.pyi`. Each is imported when it is first asked for, so that neither
`import bilevelrl` nor `bilevelrl --help` waits for what it does not use.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]


def __dir__() -> list[str]:
    return __all__
