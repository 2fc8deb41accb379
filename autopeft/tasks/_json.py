"""Rows of JSON: an object a line, or one list of objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autopeft.doors import reason
from autopeft.errors import AutopeftError
from autopeft.tasks._lines import lines

Records = Iterator[tuple[int, dict[str, Any]]]

#: Bytes of a file that is read as a whole.
_MOST_BYTES = 2**31
_SPACE = re.compile(r"[ \t\n\r]*")


class _Doubled(dict[str, Any]):
    """An object that has a key twice: JSON's parsers keep the last, and nobody would know."""

    twice: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    doubled = _Doubled(record)
    doubled.twice = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return doubled


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_names(path: Path) -> list[str]:
    """The keys that the objects of a file have, all of them."""
    read = json_file if path.suffix.lower() == ".json" else json_lines
    return list(dict.fromkeys(str(key) for _, record in read(path, (), "") for key in record))


def json_lines(path: Path, text: Sequence[str], label: str, blanks: bool = False) -> Records:
    """The objects of a file of one a line, each with its line's number; with `blanks` empty lines are empty texts."""
    for number, line in enumerate(lines(path), 1):
        if line := line.strip().removeprefix("\ufeff"):  # files put together keep their marks
            yield number, _record(path, number, line, (*text, label))
        elif blanks:
            yield number, dict.fromkeys(text, "")


def json_file(path: Path, text: Sequence[str], label: str, blanks: bool = False) -> Records:
    """The objects of a list, or of a file of one a line or after another, each with the number of its first line.

    `blanks` as in `json_lines`.
    """
    first = next((line for line in lines(path) if line.strip()), "")
    try:
        by_line = isinstance(_DECODER.decode(first), dict)
    except Exception:  # whatever is wrong with it is said where it is read
        by_line = not first
    yield from json_lines(path, text, label, blanks) if by_line else _whole(path, (*text, label))


def _whole(path: Path, columns: Sequence[str]) -> Records:
    if path.stat().st_size > _MOST_BYTES:
        raise AutopeftError(f"{path}: too large to be read as one list; write an object a line (.jsonl)")
    content = "".join(lines(path))
    at = _after_space(content, 0)
    in_list = content.startswith("[", at)
    at, number, counted = at + in_list, 1, 0
    ended = False
    while True:
        at = _after_space(content, at)
        number, counted = number + content.count("\n", counted, at), at
        if at == len(content) and not in_list:
            return
        if in_list and content.startswith("]", at) and not ended:
            break
        start = at
        try:
            value, at = _DECODER.raw_decode(content, at)
        except Exception as error:
            raise AutopeftError(_broken(path, number, error, content, start)) from error
        yield number, _checked(path, number, value, columns)
        if in_list:
            at = _after_space(content, at)
            ended = content.startswith(",", at)
            if not ended and not content.startswith("]", at):
                line = number + content.count("\n", counted, at)
                raise AutopeftError(f"{path}:{line}: broken JSON (a ',' or ']' is missing after an object)")
            at += ended
    rest = _after_space(content, at + 1)
    if rest < len(content):
        number += content.count("\n", counted, rest)
        raise AutopeftError(f"{path}:{number}: broken JSON (something follows after the list)")


def _after_space(content: str, at: int) -> int:
    found = _SPACE.match(content, at)
    return found.end() if found else at


def _record(path: Path, number: int, line: str, columns: Sequence[str]) -> dict[str, Any]:
    try:
        value = _DECODER.decode(line)
    except Exception as error:
        raise AutopeftError(f"{_broken(path, number, error, line, 0)}; one object per line") from error
    return _checked(path, number, value, columns)


def _checked(path: Path, number: int, value: Any, columns: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        remedy = "; name a file that is one list .json" if isinstance(value, list) else ""
        raise AutopeftError(f"{path}:{number}: no JSON object; one object per line is expected{remedy}")
    if isinstance(value, _Doubled):
        for name in columns:
            if name in value.twice:
                raise AutopeftError(f"{path}:{number}: key '{name}' stands twice in the object; remove all but one")
    return value


def _broken(path: Path, number: int, error: Exception, content: str, start: int) -> str:
    """In which line, and what; `number` is that of the character at `start`."""
    why = "a number of too many digits" if "digits" in str(error) else reason(error)
    if isinstance(error, json.JSONDecodeError):
        number += content.count("\n", start, error.pos)
        why = f"{error.msg}, column {error.colno}"
    return f"{path}:{number}: broken JSON ({why})"
