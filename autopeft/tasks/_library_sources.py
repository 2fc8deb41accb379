"""Texts of installed libraries, read from their sources: nothing is imported, and nothing downloaded.

What was found is kept in the user's cache folder ($AUTOPEFT_CACHE, or autopeft in $XDG_CACHE_HOME or ~/.cache).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.resources import cache_folder
from autopeft.writing import replacing

# All come with autopeft itself, directly or through torch (sympy) and optuna (sqlalchemy), and have texts to spare.
LIBRARIES = (
    "torch", "transformers", "ray", "mlflow", "pandas", "scipy",
    "sklearn", "numpy", "matplotlib", "sympy", "datasets", "sqlalchemy",
)  # fmt: skip
_OTHER_NAMES = {"sklearn": "scikit-learn"}  # of distributions, where the import name is another

_SURPLUS = 2  # candidates read per text wanted, as some are dropped for standing in two libraries
_MOST_FILES = 1500  # a library, so that one without docstrings does not take long
_MOST_BYTES = 300_000  # a file; longer ones are generated
_SKIPPED = re.compile(r"^(tests?|testing|_?vendor(ed)?|_?extern(als?)?|thirdparty\w*|third_party|site-packages)$")


def _checked(names: list[str] | None, least: int, words: str) -> list[str] | None:
    if names is not None and len(set(names)) < max(least, len(names)):
        raise ValueError(f"{words} needed, each once")
    for name in names or []:
        if not name.isidentifier():  # find_spec would import the parents of a dotted name
            raise ValueError(f"'{name}' is no top-level import name")
    return names


#: A field of names of libraries that can be imported, each once; None for the task's own.
Libraries = Annotated[list[str] | None, AfterValidator(partial(_checked, least=1, words="at least one library is"))]
#: The same where the libraries are classes.
Classes = Annotated[list[str] | None, AfterValidator(partial(_checked, least=2, words="at least two libraries are"))]


@dataclass(frozen=True)
class LibraryTexts:
    """So many different texts of each library, none of which stands in two.

    `task` names the task in messages and in the cache, `field` its field for the number. `texts` gives those of a
    parsed file; it is also told what the library is called, in lower case. `form`: raise it when the same key would
    give other texts. `part`: which of them, where a task reads several times.
    """

    task: str
    field: str
    texts: Callable[[ast.Module, Sequence[str]], Iterator[str]]
    form: int = 1
    part: str = ""

    def read(self, libraries: Sequence[str], wanted: int, seed: int) -> dict[str, list[str]]:
        """The texts by library, the same for the same installed versions; `AutopeftError` where there are too few."""
        with door(f"task {self.task}", "installed libraries cannot be looked up"):  # through hooks and files of others
            folders = {library: self._folder(library) for library in libraries}
            versions = [_version(library) for library in libraries]
        # Which files parse depends on the Python too.
        parts = [self.form, tuple(libraries), versions, wanted, seed, sys.version_info[:2]]
        parts += [self.part] if self.part else []
        file = _cache_file(self.task, hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24])
        texts = _cached(file, libraries, wanted)
        if texts is None:
            texts = self._sample(folders, wanted, seed)
            _keep(file, texts)
        return texts

    def _folder(self, library: str) -> Path:
        """Where the library's sources are; it is not imported."""
        try:
            spec = importlib.util.find_spec(library)
        except ValueError:  # a module made by hand, without a spec
            spec = None
        if spec is None or not spec.submodule_search_locations:
            what = "is not installed" if spec is None else "is no package of Python files"
            raise AutopeftError(f"task {self.task}: library '{library}' {what}; leave it out of 'libraries'")
        return Path(next(iter(spec.submodule_search_locations)))

    def _sample(self, folders: Mapping[str, Path], wanted: int, seed: int) -> dict[str, list[str]]:
        found = {name: self._candidates(name, folder, wanted * _SURPLUS, seed) for name, folder in folders.items()}
        libraries_of = Counter(text for texts in found.values() for text in texts)
        texts = {}
        for library, candidates in found.items():
            own = [text for text in candidates if libraries_of[text] == 1]
            if len(own) < wanted:
                raise AutopeftError(
                    f"task {self.task}: library '{library}' has only {len(own)} fitting texts, {wanted} are wanted; "
                    f"lower '{self.field}' or leave it out of 'libraries'"
                )
            texts[library] = random.Random(f"{seed}:sample:{library}").sample(own, wanted)
        return texts

    def _candidates(self, library: str, folder: Path, wanted: int, seed: int) -> list[str]:
        """Different texts from the files in a seeded order, until there are `wanted` or the files allowed are read."""
        with door(folder):
            files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
        files = [file for file in files if not any(_SKIPPED.match(part) for part in file.split("/")[:-1])]
        random.Random(f"{seed}:files:{library}").shuffle(files)
        own_names = [library.lower(), _OTHER_NAMES.get(library, library).lower()]
        found: dict[str, None] = {}  # a set that keeps the order
        for file in files[:_MOST_FILES]:
            tree = _parsed(folder / file)
            if tree is not None:
                found |= dict.fromkeys(self.texts(tree, own_names))
            if len(found) >= wanted:
                break
        return list(found)


def _parsed(file: Path) -> ast.Module | None:
    """What stands in the file; None for one that can't be parsed."""
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's odd escapes are not the user's concern
            return ast.parse(file.read_bytes())
    except Exception:  # whatever a parser may raise for somebody's file: there are others
        return None


def first_paragraph(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The first paragraph of its docstring, on one line; empty without one."""
    return " ".join(re.split(r"\n\s*\n", ast.get_docstring(node) or "", maxsplit=1)[0].split())


def _version(library: str) -> str:
    try:
        return metadata.version(_OTHER_NAMES.get(library, library))
    except metadata.PackageNotFoundError:
        names = _distributions().get(library, [])
        return ",".join(f"{name} {metadata.version(name)}" for name in sorted(set(names)))


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Those of each package: a look into every installed one, which takes a second."""
    return metadata.packages_distributions()


def _cache_file(task: str, key: str) -> Path | None:
    try:
        return cache_folder() / f"{task}-{key}.json"
    except RuntimeError:  # there is no home folder
        return None


def _cached(file: Path | None, libraries: Sequence[str], wanted: int) -> dict[str, list[str]] | None:
    """The texts kept in that file, or None when there are none or they are damaged."""
    if file is None:
        return None
    try:
        texts: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(texts, dict) and set(texts) == set(libraries)
    if not whole or any(not isinstance(rows, list) or len(rows) != wanted for rows in texts.values()):
        return None
    return texts if all(isinstance(text, str) for rows in texts.values() for text in rows) else None


def _keep(file: Path | None, texts: Mapping[str, list[str]]) -> None:
    """Write the cache, whole or not at all; that it can't be written is no error."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            draft.write_text(json.dumps(texts), encoding="utf-8")
