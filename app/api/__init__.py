"""HTTP: one module a resource. A view parses, calls one service, dumps."""

import importlib
import pkgutil


def load_code() -> None:
    """Import every module of the API, and what they import, so that processes forked afterwards share it.

    Modules only: nothing connects, and no thread is started.
    """
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
