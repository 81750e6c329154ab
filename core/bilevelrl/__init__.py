"""bilevelrl: a plugin framework for bilevel reinforcement learning.

The public names are listed in `__init__.pyi`. Each is imported when it is first asked for, so that neither
`import bilevelrl` nor `bilevelrl --help` waits for what it does not use.
"""

import copyreg
import importlib
import sys
from types import ModuleType
from typing import Any

import lazy_loader

__version__ = "0.1.0"

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]


def _by_name(module: ModuleType) -> Any:
    return importlib.import_module, (module.__name__,)


# The loader has made this module one of a class of its own. A function that refers to it must still be able to travel
# to another process, where the module is imported.
copyreg.pickle(type(sys.modules[__name__]), _by_name)


def __dir__() -> list[str]:
    return __all__
