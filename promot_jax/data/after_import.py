"""What is to happen once another package is imported, without importing it here."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def call(package: str, function: Callable[[], Any]) -> None:
    """Calls a function: now if a package is imported, else as soon as somebody has imported it."""
    if sys.modules.get(package) is not None:
        function()
    else:
        sys.meta_path.insert(0, _Finder(package, function))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one package as the others do, and adds a call to its loading."""

    def __init__(self, package: str, function: Callable[[], Any]):
        self._package, self._function = package, function
        self._asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name != self._package or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_call(module: ModuleType) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._function()

            spec.loader.exec_module = load_and_call
        return spec
