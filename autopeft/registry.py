"""Plug-ins found by the folder they stand in: a new method, cost, task or sampler is one new file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cached_property
from typing import Any, Generic, TypeVar

from autopeft.errors import AutopeftError, suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """The concrete subclasses of `base` that the modules of `package` define, by their `name`.

    `base` may be abstract (which is why it is not typed as `type[T]`).

    Invariants: a plug-in class is defined in a module of the package whose file name has no leading underscore,
    and has a class attribute `name` of its own. Modules are imported at the first look-up, not before.
    """

    def __init__(self, package: str, base: Any, kind: str) -> None:
        self._package, self._base, self._kind = package, base, kind

    @cached_property
    def _found(self) -> dict[str, type[T]]:
        package = importlib.import_module(self._package)
        found: dict[str, type[T]] = {}
        for info in pkgutil.iter_modules(package.__path__):
            if info.name.startswith("_"):
                continue
            module = importlib.import_module(f"{self._package}.{info.name}")
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, self._base) and "name" in vars(value):
                    if value.__module__ == module.__name__:
                        self._add(found, value)
        return dict(sorted(found.items()))

    def _add(self, found: dict[str, type[T]], value: type[T]) -> None:
        name: str = vars(value)["name"]
        if name in found:
            raise TypeError(f"two {self._kind}s are named '{name}': {found[name]} and {value}")
        found[name] = value

    def names(self) -> list[str]:
        """The known names, sorted."""
        return list(self._found)

    def all(self) -> dict[str, type[T]]:
        """The plug-in classes by name."""
        return dict(self._found)

    def get(self, name: str) -> type[T]:
        """The class of that name; `AutopeftError` with the nearest known name otherwise."""
        if name not in self._found:
            raise AutopeftError(f"unknown {self._kind} '{name}'; {suggest(name, self._found)}")
        return self._found[name]
