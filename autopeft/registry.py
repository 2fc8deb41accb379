"""Plug-ins by name: a new method, cost, metric, task or sampler is one new file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

from autopeft.errors import AutopeftError, suggest
from autopeft.plugins import HOW, from_folders, from_packages, plugin_folders

T = TypeVar("T")


class Registry(Generic[T]):
    """The concrete subclasses of `base`, by their `name`: those of the package, of other packages, of users' folders.

    `base` may be abstract (which is why it is not typed as `type[T]`). The package's own stand in modules of `package`
    whose file name has no leading underscore. Other packages name theirs, or modules with them, as entry points of the
    group `autopeft.<last part of package>`. Users' folders are those of `plugins.use_plugins`.

    `reserved` gives names that mean something else where these are used.

    Invariants: a plug-in class has a class attribute `name` of its own, and all that its base asks for. Modules are
    imported at the first look-up, not before. `AutopeftError`, with the place, for a plug-in from outside that can't be
    imported, lacks something, or has a name that is taken.
    """

    def __init__(self, package: str, base: Any, kind: str, reserved: Callable[[], Iterable[str]] = tuple) -> None:
        self._package, self._base, self._kind, self._reserved = package, base, kind, reserved
        self.group = f"autopeft.{package.rpartition('.')[2]}"
        self._whole: tuple[tuple[str, ...], dict[str, type[T]]] | None = None
        self._looking = False

    @cached_property
    def _own(self) -> dict[str, tuple[str, type[T]]]:
        """The package's, with the file of each."""
        package = importlib.import_module(self._package)
        found: dict[str, tuple[str, type[T]]] = {}
        for info in pkgutil.iter_modules(package.__path__):
            if not info.name.startswith("_"):
                module = importlib.import_module(f"{self._package}.{info.name}")
                for value in self._classes(module):
                    if "name" in vars(value):
                        self._add(found, value, str(module.__file__))
        return found

    @property
    def _found(self) -> dict[str, type[T]]:
        folders = plugin_folders()
        if self._whole is not None and self._whole[0] == folders:
            return self._whole[1]
        if self._looking:
            # A plug-in that is being imported looks up what is there before it.
            return {name: value for name, (_, value) in self._own.items()}
        self._looking = True
        try:
            found = dict(self._own)
            for place, value in self._outside():
                self._check(value, place)
                self._add(found, value, place)
        finally:
            self._looking = False
        self._whole = folders, {name: found[name][1] for name in sorted(found)}
        return self._whole[1]

    def _outside(self) -> Iterator[tuple[str, type[T]]]:
        """(Place, class) of what is not the package's own."""
        for place, thing in from_packages(self.group):
            if inspect.ismodule(thing):
                yield from ((place, value) for value in self._classes(thing) if not _is_helper(value))
            elif inspect.isclass(thing) and issubclass(thing, self._base):
                yield place, cast("type[T]", thing)
            else:
                raise AutopeftError(f"plug-in {place}: expected a {self._kind}, a subclass of {_path(self._base)}")
        for place, module in from_folders():
            yield from ((place, value) for value in self._classes(module) if not _is_helper(value))

    def _classes(self, module: Any) -> Iterator[type[T]]:
        """Classes of the right kind that a module defines."""
        for value in list(vars(module).values()):
            if inspect.isclass(value) and issubclass(value, self._base) and value.__module__ == module.__name__:
                yield cast("type[T]", value)

    def _add(self, found: dict[str, tuple[str, type[T]]], value: type[T], place: str) -> None:
        name: str = vars(value)["name"]
        if name in found:
            raise AutopeftError(
                f"plug-in {place}: {value.__name__}: a {self._kind} named '{name}' is there already "
                f"({found[name][0]}); give it another name"
            )
        found[name] = place, value

    def _check(self, value: type[T], place: str) -> None:
        """`AutopeftError` unless a class from outside has all that its base asks for."""
        where = f"plug-in {place}: {value.__name__}"
        name = vars(value).get("name")
        if not isinstance(name, str) or not name.isidentifier():
            raise AutopeftError(f"{where}: needs a class attribute 'name' of its own, of letters, digits and '_'")
        if name in self._reserved():
            raise AutopeftError(f"{where}: the name '{name}' has another meaning; give it another name")
        missing = [*sorted(getattr(value, "__abstractmethods__", ())), *_unset(self._base, value)]
        if missing:
            raise AutopeftError(f"{where}: lacks {', '.join(missing)}; see {_path(self._base)}")

    @property
    def kind(self) -> str:
        """What its plug-ins are called."""
        return self._kind

    def names(self) -> list[str]:
        """The known names, sorted."""
        return list(self._found)

    def all(self) -> dict[str, type[T]]:
        """The plug-in classes by name."""
        return dict(self._found)

    def get(self, name: str) -> type[T]:
        """The class of that name; `AutopeftError` with the nearest known name otherwise."""
        if name not in self._found:
            raise AutopeftError(f"unknown {self._kind} '{name}'; {self.hint(name)}")
        return self._found[name]

    def hint(self, name: object) -> str:
        """What to say after "unknown": the nearest known name, what is known, and how a plug-in's is found."""
        return f"{suggest(name, self._found)}; a plug-in's: {HOW}"


def _is_helper(value: type) -> bool:
    """A base of a plug-in's own: abstract and without a name, or private."""
    return value.__name__.startswith("_") or (inspect.isabstract(value) and "name" not in vars(value))


def _unset(base: type, value: type) -> list[str]:
    """Class attributes that the base declares without a value, and the class does not have."""
    declared = [
        name
        for cls in base.__mro__
        if cls.__module__.startswith("autopeft.")
        for name, kind in inspect.get_annotations(cls).items()
        if "ClassVar" in str(kind)
    ]
    return [name for name in dict.fromkeys(declared) if not hasattr(value, name)]


def _path(base: type) -> str:
    return f"{base.__module__}.{base.__qualname__}"
