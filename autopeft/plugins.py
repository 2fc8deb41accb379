"""Plug-ins from outside the package: entry points of installed packages, and folders that the user names.

A file can't bring a plug-in, and neither can the current folder or a run folder: folders are named on the command line
(`--plugins`) or in a call (`use_plugins`), each time anew, and nowhere else (see `autopeft.trust`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from autopeft.doors import door, reason
from autopeft.errors import AutopeftError

#: How a folder is named, for messages.
HOW = "give --plugins FOLDER"

#: The modules of each folder in use, by the folder's resolved path.
_folders: dict[str, list[ModuleType]] = {}
#: Digests of the code of plug-ins' modules as it was imported, by the modules' names.
_codes: dict[str, str] = {}


def use_plugins(*folders: str | Path) -> None:
    """Run the Python files of these folders, and find the plug-ins in them from now on; workers do so too.

    Each `*.py` without a leading underscore is imported; a plug-in is a class in it with a base of the package (a
    method, cost, metric, sampler, ...) and a `name`. Files of a folder import each other relatively. A folder that is
    in use already is not read again. `AutopeftError` with the file and line when one can't be imported.
    """
    for given in folders:
        with door(f"plug-ins: {given}", "no such place", "give a folder's whole path"):
            folder = Path(given).resolve()
        if str(folder) in _folders:
            continue
        files = [path for path in _python_files(folder) if not path.name.startswith("_")]
        if not files:
            raise AutopeftError(f"plug-ins: {folder} has no Python file; name a folder with a plug-in a file")
        _folders[str(folder)] = _imported(folder, files)


def plugin_folders() -> tuple[str, ...]:
    """The folders in use, in the order in which they were named."""
    return tuple(_folders)


def codes_of(classes: Iterable[type]) -> dict[str, str]:
    """Digests of the code of those classes that are plug-ins from outside, by `module.Class`.

    Of its module's file as it was imported, and of the files of its folder or package that it imports.
    """
    found = {f"{c.__module__.rpartition('.')[2]}.{c.__qualname__}": _codes.get(c.__module__) for c in classes}
    return {name: code for name, code in sorted(found.items()) if code}


def folder_codes() -> dict[str, str]:
    """The digests of all plug-in files in use by the names of their modules, which are those of other processes."""
    return {module.__name__: _codes[module.__name__] for _, module in from_folders()}


def command_line(*words: object) -> str:
    """A command of autopeft's as a shell takes it; it names the folders in use, as each command has to anew."""
    here, named = Path.cwd(), list[object]()
    for folder in map(Path, plugin_folders()):
        named += ["--plugins", folder.relative_to(here) if folder.is_relative_to(here) else folder]
    return shlex.join(map(str, ["autopeft", *words, *named]))


def not_in_use(names: Iterable[str]) -> list[str]:
    """Of names as `codes_of` gives them, those of plug-ins that are not imported here."""
    modules = {module.rpartition(".")[2] for module in _codes}
    return [name for name in names if name.partition(".")[0] not in modules]


def from_folders() -> Iterator[tuple[str, ModuleType]]:
    """(File, module) of every plug-in file in use."""
    for modules in _folders.values():
        for module in modules:
            yield str(module.__file__), module


def from_packages(group: str) -> Iterator[tuple[str, object]]:
    """(Where it comes from, class or module) of every entry point of a group, such as `autopeft.methods`.

    `AutopeftError` for one that can't be loaded.
    """
    for point in _entry_points(group):
        place = f"entry point '{point.name}' of package {point.dist.name if point.dist else '?'}"
        try:
            thing = point.load()
        except (Exception, SystemExit) as error:
            raise AutopeftError(
                f"plug-in {place}: cannot be imported ({reason(error)}); mend or uninstall that package"
            ) from error
        name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", "")
        if name in sys.modules and name not in _codes:
            _codes[name] = _digest(name)
        yield place, thing


def _entry_points(group: str) -> list[EntryPoint]:
    """Those of installed packages. What lies in the current folder is not installed, whatever Python's path says."""
    try:
        here = Path.cwd().resolve()
    except OSError:
        # It was deleted: nothing lies in it.
        here = None
    return [
        point
        for point in _all_entry_points().select(group=group)
        if point.dist is None or Path(str(point.dist.locate_file(""))).resolve() != here
    ]


@cache
def _all_entry_points() -> Any:
    # Read once: it looks into every package. Of Python 3.11 it is of another type, with `select` too.
    return entry_points()


def _python_files(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.is_file())
    except OSError as error:
        raise AutopeftError(f"plug-ins: {folder}: {reason(error)}; name a folder with Python files") from None
    for path in files:
        if not path.stem.isidentifier():
            raise AutopeftError(f"plug-in {path}: a file's name must be a Python name (letters, digits and '_')")
    return files


def _imported(folder: Path, files: list[Path]) -> list[ModuleType]:
    """The modules of the files, in a package that has the folder as its place and a name of its own."""
    # The same name in every process, so that workers know the classes by it.
    name = f"autopeft_plugins_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    package = ModuleType(name, "Plug-ins of a folder.")
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    importlib.invalidate_caches()
    try:
        modules = [_import(f"{name}.{path.stem}", path) for path in files]
        _codes.update({module.__name__: _digest(module.__name__) for module in modules})
    except BaseException:
        for known in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[known]
        raise
    return modules


def _import(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise AutopeftError(
            f"plug-in {_line(error, path)}: cannot be imported ({reason(error)}); mend it, or take it out of the folder"
        ) from error


def _digest(name: str) -> str:
    """12 digits of what a module's code is: its file, and those that it imports of its own folder or package."""
    top, found, left = name.partition(".")[0], dict[str, bytes](), [name]
    while left:
        module = sys.modules.get(one := left.pop())
        path = getattr(module, "__file__", None) or ""
        if one in found or one.partition(".")[0] != top or not path.endswith(".py"):
            continue
        found[one] = Path(path).read_bytes()
        left += _imports(ast.parse(found[one]), getattr(module, "__package__", None) or "")
    whole = hashlib.sha256()
    # Without the first part, which is made of a folder's place.
    for one in sorted(found):
        whole.update(f"{one.removeprefix(top)} {len(found[one])}\n".encode() + found[one])
    return whole.hexdigest()[:12]


def _imports(code: ast.Module, package: str) -> Iterator[str]:
    """The full names of what a module of a package imports; some are no modules."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One that goes beyond its package would fail, and is not run.
            with suppress(ImportError):
                source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


def _line(error: BaseException, path: Path) -> str:
    """The file and the line that the error comes from, as far as it is one of the folder's."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == path.parent:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)
