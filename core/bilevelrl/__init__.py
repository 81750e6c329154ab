"""bilevelrl: a plugin framework for bilevel reinforcement learning.

The public names are listed in `__init__.pyi`. Each is imported at its first use, so that `import bilevelrl` and
`bilevelrl --help` load only what they need.
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


# The lazy loader gives this module a class of its own. A function that refers to the module must still be picklable:
# the other process imports the module.
copyreg.pickle(type(sys.modules[__name__]), _by_name)


def __dir__() -> list[str]:
    return __all__
