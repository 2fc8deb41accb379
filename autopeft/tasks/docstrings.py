"""Real text without a download: the docstrings of the libraries that are installed anyway."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.resources import cache_folder
from autopeft.tasks._base import Task
from autopeft.tasks._rows import Raw, Rows

# All come with autopeft itself, directly or through torch (sympy) and optuna (sqlalchemy), and have texts to spare.
LIBRARIES = (
    "torch", "transformers", "ray", "mlflow", "pandas", "scipy",
    "sklearn", "numpy", "matplotlib", "sympy", "datasets", "sqlalchemy",
)  # fmt: skip
_OTHER_NAMES = {"sklearn": "scikit-learn"}  # of distributions, where the import name is another

_CHARACTERS = (20, 400)  # of a text, both included
_SURPLUS = 2  # candidates read per row wanted, as some are dropped for standing in two libraries
_MOST_FILES = 1500  # a library, so that one without docstrings does not take long
_MOST_BYTES = 300_000  # a file; longer ones are generated
_SKIPPED = re.compile(r"^(tests?|testing|_?vendor(ed)?|_?extern(als?)?|thirdparty\w*|third_party|site-packages)$")
_FORMAT = 1  # of the cache; raise it when the same key would give other texts


class Docstrings(Task):
    """Which library is this docstring from? First paragraphs that don't name their library, by class in equal number.

    The libraries' sources are parsed, not imported; the texts are the same for the same installed versions. They are
    kept in the user's cache folder ($AUTOPEFT_CACHE, or autopeft in $XDG_CACHE_HOME or ~/.cache).
    """

    name: ClassVar[str] = "docstrings"
    description: ClassVar[str] = "which installed library a docstring is from: 12 classes, real text, no download"

    per_class: int = Field(default=300, ge=10, description="examples of each library")
    libraries: list[str] | None = None
    validation_share: float = Field(default=0.15, gt=0, le=0.3)

    @field_validator("libraries")
    @classmethod
    def _top_level_names(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (len(set(value)) < 2 or len(set(value)) < len(value)):
            raise ValueError("at least two libraries are needed, each once")
        for name in value or []:
            if not name.isidentifier():  # find_spec would import the parents of a dotted name
                raise ValueError(f"'{name}' is no top-level import name")
        return value

    def _read(self) -> Raw:
        libraries = tuple(self.libraries or LIBRARIES)
        with door("task docstrings", "installed libraries cannot be looked up"):  # through hooks and files of others
            folders = {library: _folder(library) for library in libraries}
            versions = [_version(library) for library in libraries]
        key = _key(libraries, versions, self.per_class, self.seed)
        texts = _cached(key, libraries, self.per_class)
        if texts is None:
            texts = _sample(folders, self.per_class, self.seed)
            _keep(key, texts)
        first = [text for library in libraries for text in texts[library]]
        labels = [library for library in libraries for _ in texts[library]]
        return Raw(Rows("docstrings", first, None, labels), label_names=libraries, note="of the installed versions")


def _folder(library: str) -> Path:
    """Where the library's sources are; it is not imported."""
    try:
        spec = importlib.util.find_spec(library)
    except ValueError:  # a module made by hand, without a spec
        spec = None
    if spec is None or not spec.submodule_search_locations:
        what = "is not installed" if spec is None else "is no package of Python files"
        raise AutopeftError(f"task docstrings: library '{library}' {what}; leave it out of 'libraries'")
    return Path(next(iter(spec.submodule_search_locations)))


def _sample(folders: dict[str, Path], per_class: int, seed: int) -> dict[str, list[str]]:
    """`per_class` texts of each library, none of which stands in two; `AutopeftError` where there are too few."""
    found = {library: _candidates(library, folder, per_class * _SURPLUS, seed) for library, folder in folders.items()}
    libraries_of = Counter(text for texts in found.values() for text in texts)
    texts = {}
    for library, candidates in found.items():
        own = [text for text in candidates if libraries_of[text] == 1]
        if len(own) < per_class:
            raise AutopeftError(
                f"task docstrings: library '{library}' has only {len(own)} fitting texts, {per_class} are wanted; "
                "lower 'per_class' or leave it out of 'libraries'"
            )
        texts[library] = random.Random(f"{seed}:sample:{library}").sample(own, per_class)
    return texts


def _candidates(library: str, folder: Path, wanted: int, seed: int) -> list[str]:
    """Different texts from the files in a seeded order, until there are `wanted` or the files allowed are read."""
    with door(folder):
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
    files = [file for file in files if not any(_SKIPPED.match(part) for part in file.split("/")[:-1])]
    random.Random(f"{seed}:files:{library}").shuffle(files)
    own_names = [library.lower(), _OTHER_NAMES.get(library, library).lower()]
    found: dict[str, None] = {}  # a set that keeps the order
    for file in files[:_MOST_FILES]:
        for text in _texts(folder / file):
            if not any(name in text.lower() for name in own_names):
                found[text] = None
        if len(found) >= wanted:
            break
    return list(found)


def _texts(file: Path) -> Iterator[str]:
    """The first paragraphs, on one line each, of the file's docstrings; none of a file that can't be parsed."""
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's odd escapes are not the user's concern
            tree = ast.parse(file.read_bytes())
    except Exception:  # whatever a parser may raise for somebody's file: there are others
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            paragraph = re.split(r"\n\s*\n", ast.get_docstring(node) or "", maxsplit=1)[0]
            text = " ".join(paragraph.split())
            if _CHARACTERS[0] <= len(text) <= _CHARACTERS[1]:
                yield text


def _key(libraries: tuple[str, ...], versions: list[str], per_class: int, seed: int) -> str:
    # Which files parse depends on the Python too.
    parts = [_FORMAT, libraries, versions, per_class, seed, sys.version_info[:2]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _version(library: str) -> str:
    try:
        return metadata.version(_OTHER_NAMES.get(library, library))
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(library, [])
        return ",".join(f"{name} {metadata.version(name)}" for name in sorted(set(names)))


def _cache_file(key: str) -> Path:
    return cache_folder() / f"docstrings-{key}.json"


def _cached(key: str, libraries: tuple[str, ...], per_class: int) -> dict[str, list[str]] | None:
    """The texts kept under that key, or None when there are none or they are damaged."""
    try:
        texts = json.loads(_cache_file(key).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    whole = isinstance(texts, dict) and set(texts) == set(libraries)
    if not whole or any(not isinstance(rows, list) or len(rows) != per_class for rows in texts.values()):
        return None
    return texts if all(isinstance(text, str) for rows in texts.values() for text in rows) else None


def _keep(key: str, texts: dict[str, list[str]]) -> None:
    """Write the cache, whole or not at all; that it can't be written is no error."""
    try:
        file = _cache_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.tmp")
        part.write_text(json.dumps(texts), encoding="utf-8")
        os.replace(part, file)
    except (OSError, RuntimeError):
        return
