"""Rows as a task reads them, and their labels turned into class numbers or real values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.errors import AutopeftError, suggest
from autopeft.tasks._data import Split


@dataclass(frozen=True)
class Rows:
    """One labelled split as read; `first`, `second` and `labels` run in parallel.

    `place` (a file, or a data set's split) and `numbers` (the line or row of each; 1, 2, ... when absent) are for
    messages only. Labels are strings, ints, floats or bools, not yet encoded.
    """

    place: str
    first: Sequence[str]
    second: Sequence[str] | None
    labels: Sequence[Any]
    numbers: Sequence[int] | None = None
    mark: str = ", row "

    def at(self, index: int) -> str:
        """Where the row of that index stands, for a message."""
        number = self.numbers[index] if self.numbers is not None else index + 1
        return f"{self.place}{self.mark}{number}"


@dataclass(frozen=True)
class Raw:
    """What a task hands to the split policy.

    `validation` and `test` are None where there is no labelled one. `label_names`: the classes in their order, or
    None for those of train, sorted. `regression` None means: so if train's labels are numbers and not all whole.
    `metrics`: the task's own, main one first; empty for accuracy or spearman. `note`: what a reader should know.
    """

    train: Rows
    validation: Rows | None = None
    test: Rows | None = None
    label_names: tuple[str, ...] | None = None
    regression: bool | None = None
    metrics: tuple[str, ...] = ()
    note: str = ""


def collect(
    records: Iterable[tuple[int, Mapping[str, Any]]], text: Sequence[str], label: str, place: str, mark: str = ", row "
) -> Rows:
    """The rows of `(number, record)` pairs; `AutopeftError` with the row's place when a value is missing.

    `text` names one or two columns, `label` the label's column. No records at all is an error too.
    """
    texts: list[list[str]] = [[] for _ in text]
    labels: list[Any] = []
    numbers: list[int] = []
    for number, record in records:
        where = f"{place}{mark}{number}"
        for values, column in zip(texts, text, strict=True):
            values.append(_text(record, column, where))
        labels.append(_label(record, label, where))
        numbers.append(number)
    if not labels:
        raise AutopeftError(f"{place}: no rows; a split needs at least one")
    return Rows(place, texts[0], texts[1] if len(texts) > 1 else None, labels, numbers, mark)


def _text(record: Mapping[str, Any], column: str, where: str) -> str:
    value = record.get(column)
    if isinstance(value, str):
        return value
    if column not in record:
        raise AutopeftError(f"{where}: no text column '{column}'; {suggest(column, map(str, record))}")
    what = "is empty" if value is None else f"holds no text but {value!r:.40}"
    raise AutopeftError(f"{where}: text column '{column}' {what}; mend the row, or name another column in 'text'")


def _label(record: Mapping[str, Any], column: str, where: str) -> str | int | float:
    if column not in record:
        raise AutopeftError(f"{where}: no label column '{column}'; {suggest(column, map(str, record))}")
    value = record[column]
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise AutopeftError(f"{where}: label column '{column}' is empty; give the row a label or remove it")
    if not isinstance(value, (str, int, float)):
        raise AutopeftError(f"{where}: label column '{column}' holds no single value but {value!r:.40}")
    return value


def label_key(label: str | int | float) -> str:
    """The class name of a raw label: 1 and 1.0 are "1", True is "true", a string is itself."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


def _number(label: str | int | float) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_regression(raw: Raw) -> bool:
    """Whether the labels are real values: as the task says, else by train's labels."""
    if raw.regression is not None:
        return raw.regression
    if raw.label_names is not None:
        return False
    numbers = [_number(label) for label in raw.train.labels]
    return None not in numbers and any(value != int(value) for value in numbers if value is not None)


def class_names(raw: Raw) -> tuple[str, ...]:
    """The classes in their order: as the task gives them, else train's, by value if all are numbers."""
    if raw.label_names is not None:
        return raw.label_names
    keys = {label_key(label) for label in raw.train.labels}
    values = {key: _number(key) for key in keys}
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
        return Split(tuple(rows.first), None if rows.second is None else tuple(rows.second), labels)

    train = encode(raw.train, "the classes of the set")
    trained = set(train.labels)
    if names and len(trained) < 2:
        # Before the other splits are read: there every row of another label would seem to be the mistake.
        only = names[int(train.labels[0])] if train.labels else ""
        raise AutopeftError(f"{raw.train.place}: one class only, every row has the label '{only}'; add rows of another")
    known = {name: number for name, number in known.items() if number in trained}
    validation = None if raw.validation is None else encode(raw.validation, raw.train.place)
    test = None if raw.test is None else encode(raw.test, raw.train.place)
    return train, validation, test


def _class_numbers(rows: Rows, known: Mapping[str, int], known_in: str) -> tuple[int, ...]:
    numbers = []
    for index, label in enumerate(rows.labels):
        key = label_key(label)
        if key not in known:
            raise AutopeftError(
                f"{rows.at(index)}: label '{key}' does not occur in {known_in}; "
                f"mend the row or add such rows there; {suggest(key, known)}"
            )
        numbers.append(known[key])
    return tuple(numbers)


def _real_values(rows: Rows) -> tuple[float, ...]:
    values = []
    for index, label in enumerate(rows.labels):
        value = _number(label)
        if value is None:
            raise AutopeftError(f"{rows.at(index)}: label {label!r:.40} is not a number, as regression needs")
        values.append(value)
    return tuple(values)


def one_or_two(value: Any) -> Any:
    """Validator of a `text` field: a column's name, or a list of one or two; `ValueError` otherwise."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a column's name, or a list of two")
    if not 1 <= len(set(names)) == len(names) <= 2:
        raise ValueError("expected one column's name, or two different ones")
    return value
