"""Fields of an experiment that stand on the command line: `--set training.epochs=5`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopeft.config import read_value
from autopeft.errors import AutopeftError, shown
from autopeft.space_spec import find_space

#: What messages call the place.
PLACE = "--set"
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_0-9][\w-]*)*")
#: The limit that a budget of one amount is.
LIMITED = "trainable_params"

#: One amount of a time (`1h30m` has two), and a time in seconds.
_PART = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([smhd])"
_DURATION = re.compile(rf"[0-9]{{1,15}}(?:\.[0-9]{{1,15}})?|{_PART}(?:\s*{_PART}){{0,3}}")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}

Given = Mapping[tuple[str, ...], Any]


def read_given(texts: Sequence[str]) -> dict[tuple[str, ...], Any]:
    """Values by the path of their field, of texts such as `training.epochs=5` (values are YAML).

    `AutopeftError` for what is no `key=value`, and for a field that is given twice.
    """
    found: dict[tuple[str, ...], Any] = {}
    for text in texts:
        key, mark, value = text.partition("=")
        key = key.strip()
        if not mark or not _KEY.fullmatch(key):
            raise AutopeftError(f"{PLACE}: expected key=value, such as training.epochs=5 (given: {shown(text)})")
        path = tuple(key.split("."))
        if path in found:
            raise AutopeftError(f"{PLACE}: {key} twice; leave one of them out")
        found[path] = read_value(value, f"{PLACE} {key}")
    return found


def with_given(data: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """The fields of an experiment with those values in their places; what is there otherwise stays.

    A field inside one that is written in short is put beside what that stands for: `sampler.startup` of `sampler: tpe`.
    `AutopeftError` for a field inside one that has none.
    """
    found = dict(data)
    for path, value in given.items():
        inside = found
        for depth, name in enumerate(path[:-1]):
            inner = inside.get(name)
            if not isinstance(inner, Mapping):
                inner = _opened(path[: depth + 1], inner)
            # A copy: the data of the file are the caller's.
            inside[name] = dict(inner)
            inside = inside[name]
        inside[path[-1]] = value
    return found


def in_seconds(value: Any) -> Any:
    """Seconds of a time such as `1h30m`; `ValueError` for a text that is none, and what is no text as it is."""
    if not isinstance(value, str):
        return value
    parts = re.findall(_PART, value)
    units = [unit for _, unit in parts]
    # From days to seconds, each once: `30m1h` is more likely a slip.
    if not _DURATION.fullmatch(value.strip()) or units != [unit for unit in _SECONDS if unit in units]:
        raise ValueError("expected seconds, or a time like '90s', '30m', '1h30m'")
    return sum(float(amount) * _SECONDS[unit] for amount, unit in parts) if parts else float(value)


def amounts(value: Any) -> Any:
    """A budget: one amount alone is a limit on trained parameters, and `none` is no limit."""
    if value is None or value == "none":
        return {}
    alone = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return {LIMITED: value} if alone else value


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _switched(value: Any) -> Any:
    return {} if value in ("none", "default", False) else value


#: What a field stands for that is written in short, by its name.
_SHORT: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("task", "sampler", "stopping", "runner", "tracking"), _named),
    **dict.fromkeys(("descent", "confirm", "generation", "backbone", "evaluate_on"), _switched),
    "space": lambda value: find_space(value)[0],
    "budget": amounts,
    "servable": lambda value: {} if value in ("none", False) else {"kind": value},
    "controls": lambda value: {"names": value},
}


def _opened(path: tuple[str, ...], value: Any) -> Mapping[str, Any]:
    """The mapping that a field stands for which is none as it is written."""
    opened = {} if value is None else value
    if value is not None and len(path) == 1 and path[0] in _SHORT:
        opened = _SHORT[path[0]](value)
    if not isinstance(opened, Mapping):
        raise AutopeftError(f"{PLACE} {'.'.join(path)}: is {shown(value)}, which has no fields to be set")
    return opened
