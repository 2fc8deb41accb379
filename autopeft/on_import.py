"""Do something right after another package is imported, whenever that is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(package: str, action: Callable[[], object]) -> None:
    """Call `action` now if `package` is imported already, else once right after it is."""
    if package in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watch(package, action))


class _Watch(MetaPathFinder):
    """Finds the package as everyone else does, with a loader that calls the action after loading it.

    It stays until the package is loaded: looking whether a package is there (`find_spec("peft")`) is no import.
    """

    def __init__(self, package: str, action: Callable[[], object]) -> None:
        self._package, self._action = package, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's own spec, watched; None for every other module."""
        if fullname != self._package or self not in sys.meta_path:
            return None
        # Only those behind this one are asked: no recursion, and nothing that threads could share.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Then(spec.loader, self)
                return spec
        return None

    def loaded(self) -> None:
        """The package is there: act, once."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._action()


class _Then(Loader):
    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._watch.loaded()

    def __getattr__(self, name: str) -> object:
        # Resource readers and the like are the real loader's.
        return getattr(self._loader, name)
