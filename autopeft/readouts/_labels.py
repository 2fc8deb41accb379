"""Labels, however they are spelled: class names and numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from autopeft.cells import Label, clean, shown
from autopeft.errors import AutopeftError, suggest
from autopeft.readouts._base import Labelled

#: Spellings of "no value" in spreadsheets and data frames, in lower case.
MISSING = frozenset({"na", "n/a", "#n/a", "<na>", "n.a.", "nan", "null", "none", "nil", "nat", "missing", "-", "?"})

_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")


def label_key(label: Label) -> str:
    """The class name of a raw label: 1 and 1.0 are "1", True is "true", a string is itself without outer space."""
    if isinstance(label, str):
        return clean(label).strip()
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


def folded(key: str) -> str:
    """What spellings of one class have in common: "1", "1.0" and "+1"; "True" and "true"; both Unicode forms of "é".

    "01", "Yes" and "yes" are themselves.
    """
    if key.lower() in ("true", "false"):
        return key.lower()
    if whole := _WHOLE.fullmatch(key):
        sign, digits = whole.groups()
        return f"-{digits}" if sign == "-" and digits != "0" else digits
    return unicodedata.normalize("NFC", key).strip()


def spellings(labels: Iterable[Label]) -> dict[str, list[str]]:
    """The class names of `labels`, each with its spellings, sorted: the only spelling there is, else the folded one."""
    groups: dict[str, list[str]] = {}
    for key in sorted({label_key(label) for label in labels}):
        groups.setdefault(folded(key), []).append(key)
    return {common if len(keys) > 1 else keys[0]: keys for common, keys in groups.items()}


def number(label: Label) -> float | None:
    """The finite value of a label, or None where it is no number."""
    try:
        value = float(label)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def sorted_names(labels: Iterable[Label]) -> tuple[str, ...]:
    """The classes that labels name, sorted: by value if all are numbers."""
    keys = spellings(labels)
    values = {key: number(key) for key in keys}
    if None in values.values():
        return tuple(sorted(keys))
    return tuple(sorted(keys, key=lambda key: (values[key], key)))


def doubt(names: Sequence[str]) -> str:
    """What to ask where nearly every row has a class of its own."""
    if all(number(name) is not None for name in names):
        return "if they are values and no classes, say readout: regression"
    return "is their column the right one?"


class ClassNumbers:
    """Looks class names up, in any of their spellings; `AutopeftError` with a place for one that is not known.

    `names`: the classes by number, of which `known` (all, for None) may occur; `known_in` says where they stand.
    """

    def __init__(self, names: Sequence[str], known: Collection[int] | None, known_in: str) -> None:
        self._known = {name: i for i, name in enumerate(names) if known is None or i in known}
        self._folded = {folded(name): number for name, number in self._known.items()}
        self._known_in = known_in

    def of(self, label: Label, at: str) -> int:
        """The number of a label that stands `at` a place."""
        key = label_key(label)
        found = self._known.get(key)
        if found is None:
            found = self._folded.get(folded(key))
        if found is None:
            raise AutopeftError(
                f"{at}: label {shown(key)} does not occur in {self._known_in}; "
                f"mend the row or add such rows there; {suggest(key, self._known)}"
            )
        return found


def of_each(rows: Labelled, numbers: ClassNumbers) -> tuple[int, ...]:
    """The class number of each row's label."""
    return tuple(numbers.of(label, rows.at(index)) for index, label in enumerate(rows.labels))
