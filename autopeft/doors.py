"""The doors through which files from outside come in.

Whatever is wrong with such a file, a model, a data set or a database is an `AutopeftError` of one line that names it:
a list of exception types at the place of reading is never complete, since parsers and libraries raise what they like.
What is too large for what it claims to be is refused before it is read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autopeft.errors import AutopeftError, shown
from autopeft.secrets import hidden, spoken_of

#: Bytes of a configuration, a hybrid or an adapter's description; the largest real ones have some hundred thousand.
MOST_BYTES = 8 * 2**20
#: Bytes of a file for each value in it, at the least: what plain data take in memory is bounded by their number.
_BYTES_A_VALUE = 8
#: Levels of lists and mappings in one.
MOST_LEVELS = 64
#: Whole numbers in plain data are smaller: no float holds one of 400 digits, no text one of 5,000.
_MOST_NUMBER = 10**40
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
        cause = None if spoken_of(error) else error
        raise AutopeftError(f"{place}: {what} ({reason(error)})" + _after(remedy)) from cause


@contextmanager
def within(place: str | Path, remedy: str = "") -> Iterator[None]:
    """An `AutopeftError` inside is said to be of this place, if it does not say so itself."""
    try:
        yield
    except AutopeftError as error:
        if str(error).startswith((f"{place}:", f"{place},", f"{place} ")):
            raise
        raise AutopeftError(f"{place}: {error}" + _after(remedy)) from error.__cause__


def reason(error: BaseException) -> str:
    """An error's first line, bounded; the system's own words for an `OSError`, a type's name where nothing is said."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text; save it as UTF-8"
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    said = lines[0].strip() if lines else ""
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1].strip()}"
    text = said if said and not isinstance(error, KeyError) else f"{type(error).__name__} {said}".strip()
    text = hidden(text)  # before it is cut: half a secret is not recognised
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"


def read_text(path: Path, remedy: str = "", most: int = MOST_BYTES) -> str:
    """A small text file in UTF-8 (a byte order mark is dropped), of at most `most` bytes.

    A pipe or a device is refused: it has no end, or comes late.
    """
    with door(path, remedy=remedy):
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise AutopeftError(f"{path}: cannot be read (not a file, but a pipe or a device)" + _after(remedy))
            data = file.read(most + 1) if status.st_size <= most else b""
        if max(len(data), status.st_size) > most:
            raise AutopeftError(
                f"{path}: {max(len(data), status.st_size):,} bytes are more than such a file has ({most:,} at most)"
                + _after(remedy)
            )
        return data.decode("utf-8-sig")


def read_json(path: Path, remedy: str = "", most: int = MOST_BYTES) -> dict[str, Any]:
    """The object in a small JSON file."""
    data = read_json_value(path, remedy, most)
    if not isinstance(data, dict):
        raise AutopeftError(f"{path}: expected a JSON object" + _after(remedy))
    return data


def read_json_value(path: Path, remedy: str = "", most: int = MOST_BYTES) -> Any:
    """Whatever a small JSON file holds, as plain data (see `check_plain`)."""
    text = read_text(path, remedy, most)
    if sum(map(text.count, ",[{")) > most // _BYTES_A_VALUE:
        raise AutopeftError(f"{path}: more than {most // _BYTES_A_VALUE:,} values" + _after(remedy))
    with door(path, "not valid JSON", remedy):
        data = json.loads(text)
    check_plain(data, str(path), most // _BYTES_A_VALUE)
    return data


def check_plain(data: Any, where: str, most: int = MOST_BYTES // _BYTES_A_VALUE) -> None:
    """`AutopeftError` when plain data holds what nothing can be done with.

    That is more than `MOST_LEVELS` levels of lists and mappings (so also one that holds itself), more than `most`
    values, a whole number of more than 40 digits, and a text with a NUL or half of a surrogate pair.
    """
    level, values, count = 0, [data], 1
    while values:
        inner: list[Any] = []
        for value in values:
            if isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, (list, tuple)):
                inner += value
            elif isinstance(value, (str, int)) and (what := _wrong(value)):
                raise AutopeftError(f"{where}: {what}: {shown(value)}")
            if count + len(inner) > most:
                raise AutopeftError(f"{where}: more than {most:,} values")
        level, values, count = level + 1, inner, count + len(inner)
        if level > MOST_LEVELS and inner:
            raise AutopeftError(f"{where}: nested more than {MOST_LEVELS} levels deep")


def _wrong(value: str | int) -> str | None:
    if isinstance(value, int):
        return "a number of more than 40 digits" if abs(value) >= _MOST_NUMBER else None
    if "\0" in value:
        return "a text with a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a text with half of a character (a lone surrogate)"
    return None


def no_folder(path: Path) -> str:
    """What is in the place of a folder that is none."""
    return "it is a file" if path.is_file() else "there is no such folder"


def _after(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


def _without_waiting(path: str, flags: int) -> int:
    """Open at once: a pipe that nobody writes would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
