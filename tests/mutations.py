"""Valid inputs made wrong: plain data with hostile values in them, and bytes that a disk or a hand has spoilt."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st


class Raw(str):
    """Written as it stands, not as a text: what no plain value says."""

    __slots__ = ()


#: Whatever the format.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**7, 10**9, 10**30, 10**400, -(10**30), 0.5, 1e308, 5e-324, math.nan, math.inf,
    "", " ", ".", "..", "-x", "~", "/", "/dev/zero", "/dev/null", "a/b.yaml", "a\nb", "a\0b", "\ud800", "é" * 300,
    "x" * 5_000, "x" * 60_000, "1e-4", "nan", "inf", "-inf", "5%", "1e999999999", "1" * 50 + "%", "2001-99-99", "d/0",
    "d/" + "9" * 50, "1m", "9" * 400 + "h", "٣", "\u202e", "!!int x", [], {}, [[]], [None], [0] * 5_000, [[0]] * 300,
    {"": None}, {"name": None}, {"name": "tpe", "seed": 10**30}, {"low": 1, "high": 0}, {"choices": [math.nan]},
    {"method": "lora", "rank": 10**7}, ["q"] * 1_000, {f"k{i}": i for i in range(1_000)}, [0, 10**7], [[[]] * 2_000],
]  # fmt: skip
_DEEP, _DIGITS = "[" * 1_000 + "]" * 1_000, "9" * 5_000
_BOMB = "[&a [0,0,0,0,0,0,0,0,0]" + "".join(
    f", &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
YAML: list[Any] = [
    *VALUES, *map(Raw, (
        _DEEP, _DIGITS, "1e400", "0x_", "0b_", "0x" + "f" * 4_000, "2001-99-99", "2001-01-01", "!!int x", "!x y",
        "!!timestamp x", "!!binary x", "!!python/name:os.system", "!!set {a}", "!!bool x", "*a", "&a [*a]", "1:30", "[",
        f"{_BOMB}]", "{<<: 1}", "{<<: [*a]}", "{[a]: 1}", "{a: 1, a: 2}", "}", "\t", "---", "?", "'", "\0", "\u0085",
    )),
]  # fmt: skip
JSON: list[Any] = [*VALUES, *map(Raw, (_DEEP, _DIGITS, "1e400", "NaN", "-Infinity", "[", "}", "'a'", "01", "\\"))]
CHUNKS = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b",", b"\t", b"[" * 500, b"9" * 500, b"\x80",
          b"\\ud800", b"{", b"}", b": ", b"- ", b"x" * 200_000, b"PAR1", b"\n\n\n", b"&a *a", b"!!int "]  # fmt: skip


def written(value: Any, nan: str = ".nan", inf: str = ".inf") -> str:
    """Plain data as JSON, which is YAML too, with `Raw` as it stands."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(k, nan, inf)}: {written(v, nan, inf)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(v, nan, inf) for v in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return nan if math.isnan(value) else ("-" if value < 0 else "") + inf
    return json.dumps(value)


def as_json(value: Any) -> str:
    """The same as Python's `json` writes and reads it."""
    return written(value, "NaN", "Infinity")


@st.composite
def mutated(draw: st.DrawFn, valid: Any, values: list[Any]) -> Any:
    """The plain data with one to three edits."""
    top = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(1, 3))):
        places = [(top, 0), *_places(top[0])]
        inside, key = places[draw(st.integers(0, len(places) - 1))]
        _edit(draw, inside, key, values)
    return top[0]


def _places(data: Any, level: int = 0) -> list[tuple[Any, Any]]:
    if not isinstance(data, (dict, list)) or level > 20:
        return []
    keys = list(data) if isinstance(data, dict) else list(range(min(len(data), 50)))
    return [place for key in keys for place in ((data, key), *_places(data[key], level + 1))]


def _edit(draw: st.DrawFn, inside: Any, key: Any, values: list[Any]) -> None:
    kind = draw(st.sampled_from(_EDITS))
    old = inside[key]
    if kind == "value":
        inside[key] = copy.deepcopy(draw(st.sampled_from(values)))
    elif kind == "made":
        inside[key] = draw(_MADE)
    elif kind == "wrap":
        inside[key] = draw(st.sampled_from([[old], {"x": old}, [old, old], str(type(old)), [[old]]]))
    elif kind == "nest":
        for _ in range(draw(st.sampled_from([2, 5, 70]))):
            inside[key] = [inside[key]]
    elif kind == "repeat":
        inside[key] = [copy.deepcopy(old) for _ in range(draw(st.sampled_from([2, 7] if _places(old) else [300])))]
    elif kind == "delete" and isinstance(inside, dict):
        del inside[key]
    elif kind == "rename" and isinstance(inside, dict):
        inside[draw(_KEYS)] = inside.pop(key)
    elif isinstance(old, dict):
        old[draw(_KEYS)] = copy.deepcopy(draw(st.sampled_from(values)))
    elif isinstance(old, list):
        old.append(copy.deepcopy(draw(st.sampled_from(values))))


_EDITS = ["value", "value", "value", "made", "delete", "rename", "wrap", "nest", "repeat", "add"]
_KEYS = st.sampled_from(["", "name", "method", "x" * 3_000, "a\nb", "\0", "\ud800", "é", "label", "<<", "=", "rank"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_MADE = st.recursive(
    _SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=8
)


@st.composite
def spoilt(draw: st.DrawFn, valid: bytes) -> bytes:
    """The bytes with one to four edits: flipped, cut out, put in, cut off, doubled."""
    data = valid
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), at + draw(st.integers(1, 40)))
        kind = draw(st.sampled_from(["flip", "cut", "put", "random", "off", "double"]))
        if kind == "flip":
            data = data[:at] + bytes(b ^ draw(st.integers(1, 255)) for b in data[at : at + 1]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[end:]
        elif kind == "put":
            data = data[:at] + draw(st.sampled_from(CHUNKS)) + data[at:]
        elif kind == "random":
            data = data[:at] + draw(st.binary(min_size=1, max_size=12)) + data[end:]
        elif kind == "off":
            data = data[:at]
        else:
            data = data[:end] + data[at:]
    return data
