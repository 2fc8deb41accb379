"""The doors through which files from outside come in.

Whatever is wrong with such a file, a model, a data set or a database is an `AutopeftError` of one line that names it:
a list of exception types at the place of reading is never complete, since parsers and libraries raise what they like.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autopeft.errors import AutopeftError

#: Bytes of a configuration, a hybrid or an adapter's description; the largest real ones have some hundred thousand.
MOST_BYTES = 16 * 2**20
#: Levels of lists and mappings in one.
MOST_LEVELS = 64
_LENGTH = 200


@contextmanager
def door(place: str | Path, what: str = "cannot be read", remedy: str = "") -> Iterator[None]:
    """Any error inside becomes `AutopeftError("<place>: <what> (<reason>); <remedy>")`; an `AutopeftError` stays.

    Put it around the reading of one foreign thing, and nothing else: an error of our own would be taken for the file's.
    """
    try:
        yield
    except AutopeftError:
        raise
    except BaseException as error:
        # A panic of a library that is written in Rust is no `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise AutopeftError(f"{place}: {what} ({reason(error)})" + (f"; {remedy}" if remedy else "")) from error


def reason(error: BaseException) -> str:
    """An error's first line, bounded; the system's own words for an `OSError`, a type's name where nothing is said."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "out of memory"
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    said = lines[0].strip() if lines else ""
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1].strip()}"
    text = said if said and not isinstance(error, KeyError) else f"{type(error).__name__} {said}".strip()
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"


def read_text(path: Path, remedy: str = "") -> str:
    """A small text file in UTF-8, of at most `MOST_BYTES`."""
    with door(path, remedy=remedy):
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise AutopeftError(f"{path}: {size:,} bytes are more than such a file has ({MOST_BYTES:,} at most)")
        return path.read_text(encoding="utf-8")


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """The object in a small JSON file."""
    text = read_text(path, remedy)
    with door(path, "not valid JSON", remedy):
        data = json.loads(text)
    if not isinstance(data, dict):
        raise AutopeftError(f"{path}: expected a JSON object" + (f"; {remedy}" if remedy else ""))
    check_levels(data, str(path))
    return data


def check_levels(data: Any, where: str) -> None:
    """`AutopeftError` when plain data is nested more deeply than `MOST_LEVELS` (or holds itself)."""
    level, values = 0, [data]
    seen: set[int] = set()
    while values:
        level += 1
        if level > MOST_LEVELS:
            raise AutopeftError(f"{where}: nested more than {MOST_LEVELS} levels deep")
        inner = [v for value in values for v in (value.values() if isinstance(value, dict) else value)]
        fresh = {id(v): v for v in inner if isinstance(v, (dict, list))}
        values = [v for key, v in fresh.items() if key not in seen]
        seen |= fresh.keys()
