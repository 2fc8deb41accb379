"""Labels, however they are spelled, turned into class numbers or real values."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping

from autopeft.errors import AutopeftError, suggest
from autopeft.tasks._data import Split
from autopeft.tasks._rows import Label, Raw, Rows, clean, shown

#: Spellings of "no value" in spreadsheets and data frames, in lower case.
MISSING = frozenset({"na", "n/a", "#n/a", "<na>", "n.a.", "nan", "null", "none", "nil", "nat", "missing", "-", "?"})

#: From this share of numbers on, with some that aren't whole, a label that is no number is a slip and no class.
_MOSTLY = 0.8
_LARGEST = 3.4e38  # that a model's outputs, of 32 bits, can reach
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


def is_regression(raw: Raw) -> bool:
    """Whether the labels are real values: as the task says, else by train's labels.

    `AutopeftError` with the row's place where a column of numbers has something else among them.
    """
    if raw.regression is not None:
        return raw.regression
    if raw.label_names is not None:
        return False
    numbers = [number(label) for label in raw.train.labels]
    whole = all(value == int(value) for value in numbers if value is not None)
    if None not in numbers:
        return not whole
    _check_numbers(raw.train, numbers, whole)
    return False


def _check_numbers(rows: Rows, numbers: list[float | None], whole: bool) -> None:
    others = [index for index, value in enumerate(numbers) if value is None]
    count = len(numbers) - len(others)
    slip = f"{rows.at(others[0])}: label {shown(rows.labels[others[0]])} stands among numbers"
    as_class = "or say 'regression: false' if it is a class"
    if count and all(label_key(rows.labels[index]).lower() in MISSING for index in others):
        raise AutopeftError(f"{slip} and says that there is none; give the row a label, remove it, {as_class}")
    if not whole and count >= _MOSTLY * len(numbers):
        raise AutopeftError(f"{slip} ({count:,} of {len(numbers):,} rows); mend or remove the row, {as_class}")


def class_names(raw: Raw) -> tuple[str, ...]:
    """The classes in their order: as the task gives them, else train's, by value if all are numbers."""
    if raw.label_names is not None:
        return raw.label_names
    keys = spellings(raw.train.labels)
    values = {key: number(key) for key in keys}
    if None in values.values():
        return tuple(sorted(keys))
    return tuple(sorted(keys, key=lambda key: (values[key], key)))


def encoded(raw: Raw, names: tuple[str, ...]) -> tuple[Split, Split | None, Split | None]:
    """Train, validation and test with labels as indices of `names`, or as floats when that is empty (regression).

    `AutopeftError` with the row's place for a label that is no number, or that no row of train has; with train's
    place when it has one class only.
    """
    known = {name: number for number, name in enumerate(names)}

    def encode(rows: Rows, known_in: str) -> Split:
        labels = _class_numbers(rows, known, known_in) if names else _real_values(rows)
        second = None if rows.second is None else tuple(map(clean, rows.second))
        numbers = tuple(rows.numbers or range(1, len(rows.first) + 1))
        return Split(tuple(map(clean, rows.first)), second, labels, f"{rows.place}{rows.mark}", numbers)

    train = encode(raw.train, "the classes of the set")
    trained = set(train.labels)
    if names and len(trained) < 2:
        # Before the other splits are read: there every row of another label would seem to be the mistake.
        only = shown(names[int(train.labels[0])] if train.labels else "")
        raise AutopeftError(f"{raw.train.place}: one class only, every row has the label {only}; add rows of another")
    known = {name: number for name, number in known.items() if number in trained}
    validation = None if raw.validation is None else encode(raw.validation, raw.train.place)
    test = None if raw.test is None else encode(raw.test, raw.train.place)
    return train, validation, test


def _class_numbers(rows: Rows, known: Mapping[str, int], known_in: str) -> tuple[int, ...]:
    common = {folded(name): number for name, number in known.items()}
    numbers = []
    for index, label in enumerate(rows.labels):
        key = label_key(label)
        found = known.get(key)
        if found is None:
            found = common.get(folded(key))
        if found is None:
            raise AutopeftError(
                f"{rows.at(index)}: label {shown(key)} does not occur in {known_in}; "
                f"mend the row or add such rows there; {suggest(key, known)}"
            )
        numbers.append(found)
    return tuple(numbers)


def _real_values(rows: Rows) -> tuple[float, ...]:
    values = []
    for index, label in enumerate(rows.labels):
        value = number(label)
        if value is None:
            raise AutopeftError(f"{rows.at(index)}: label {shown(label)} is not a number, as regression needs")
        if abs(value) > _LARGEST:
            raise AutopeftError(f"{rows.at(index)}: label {shown(label)} is beyond what a model can predict; scale it")
        values.append(value)
    return tuple(values)
