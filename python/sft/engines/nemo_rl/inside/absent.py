"""Empty modules in place of packages that are not installed on a CPU, for what imports them without asking.

    import sys, absent
    sys.meta_path.append(absent.Absent("modelopt", "transformer_engine"))

Standard library only.
"""

import importlib.abc
import importlib.machinery
import types
import typing
from typing import Any


class _AbsentType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AbsentType(name, (_Absent,), {})


class _Absent(metaclass=_AbsentType):
    """Stands for a class, function or decorator of a package that is not there."""

    def __init__(self, *args: Any, **kwargs: Any): ...

    def __init_subclass__(cls, **kwargs: Any): ...

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) else None


class AbsentModule(types.ModuleType):
    """Has every name that is asked of it."""

    __path__: typing.ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _AbsentType(name, (_Absent,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds empty modules for the packages `roots` and all below them."""

    def __init__(self, *roots: str):
        self.roots = list(roots)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if any(name == root or name.startswith(f"{root}.") for root in self.roots):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__version__ = "0.0.0"
