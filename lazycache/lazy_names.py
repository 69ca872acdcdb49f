"""Packages whose public names are loaded when they are first used (PEP 562, as a class)."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package with a table `_HOMES` of public names and the modules that define them.

    A name of the table is always what that module defines, never the file or folder of its name:
    `lazycache.capture` is the function, whoever has loaded the package `lazycache.capture` before.
    Packages below it that `_PARTS` names are loaded in the same way, `lazycache.pictures.norms`.

    A package becomes one by `sys.modules[__name__].__class__ = LazyPackage`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # an import makes a loaded file or folder an attribute of the folder above it
        if name in self.__dict__["_HOMES"] and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        home = self.__dict__["_HOMES"].get(name)
        if home is None and name in self.__dict__.get("_PARTS", ()):
            return import_module(f"{self.__name__}.{name}")
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = self.__dict__[name] = getattr(import_module(home), name)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["__all__"]})
