"""Rows as a task reads them: texts are strings, labels are single values, and each row knows where it stands."""

from __future__ import annotations

import datetime
import decimal
import math
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft import errors
from autopeft.errors import AutopeftError, suggest

Label = str | int | float


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

    def splits(self) -> dict[str, Rows]:
        """The splits that there are, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in found.items() if rows is not None}


def collect(
    records: Iterable[tuple[int, Mapping[str, Any]]], text: Sequence[str], label: str, place: str, mark: str = ", row "
) -> Rows:
    """The rows of `(number, record)` pairs; `AutopeftError` with the row's place when a value is missing.

    `text` names one or two columns, `label` the label's column. No records at all is an error too.
    """
    if label in text:
        raise AutopeftError(f"{place}: column '{label}' is named as text and as label; name another in 'label'")
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


def columns_of(names: Sequence[str], text: Sequence[str], label: str, where: str, hint: str = "") -> list[int]:
    """Where the text columns and the label's stand among `names`, white space around names and Unicode forms aside.

    `AutopeftError`, starting with `where` and closing with `hint`, for one that isn't there or stands there twice.
    """
    found = []
    for column in (*text, label):
        places = [i for i, name in enumerate(names) if name == column]
        places = places or [i for i, name in enumerate(names) if _bare(name) == _bare(column)]
        if not places:
            raise AutopeftError(f"{where}: {_missing(column, label, names)}{hint}")
        if len(places) > 1:
            raise AutopeftError(f"{where}: {len(places)} columns are named '{column}'; rename all but one")
        found += places
    return found


def _bare(name: str) -> str:
    return unicodedata.normalize("NFC", clean(name)).strip()


def _missing(column: str, label: str, names: Iterable[object]) -> str:
    return f"no {'label' if column == label else 'text'} column '{column}'; {suggest(column, map(str, names))}"


def _text(record: Mapping[str, Any], column: str, where: str) -> str:
    value = record.get(column)
    if isinstance(value, str):
        return value
    if column not in record:
        raise AutopeftError(f"{where}: {_missing(column, '', record)}")
    if isinstance(value, bytes):
        value = _decoded(value)
        if isinstance(value, str):
            return value
    what = "is empty" if value is None else f"holds no text but {shown(value)}"
    raise AutopeftError(f"{where}: text column '{column}' {what}; mend the row, or name another column in 'text'")


def _label(record: Mapping[str, Any], column: str, where: str) -> Label:
    if column not in record:
        raise AutopeftError(f"{where}: {_missing(column, column, record)}")
    value = plain(record[column])
    if isinstance(value, str):
        if value and not value.isspace():
            return value
        value = None
    if value is None or value != value:
        raise AutopeftError(f"{where}: label column '{column}' is empty; give the row a label or remove it")
    if isinstance(value, (int, float)):
        try:
            if math.isfinite(value):
                return value
        except OverflowError:
            pass
        raise AutopeftError(f"{where}: label column '{column}' holds a number beyond all bounds; mend the row")
    raise AutopeftError(f"{where}: label column '{column}' holds no single value but {shown(value)}; mend the row")


def plain(value: Any) -> Any:
    """The Python value of what files of typed columns hold: numbers, ISO dates, text of UTF-8 bytes; else `value`."""
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return float("nan" if value.is_nan() else "inf")
        return float(value) if value.adjusted() > 400 or value != value.to_integral_value() else int(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (datetime.timedelta, uuid.UUID)):
        return str(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def shown(value: object) -> str:
    """A cell in a message, short."""
    return errors.shown(value, 40)


def clean(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no encoding and no tokenizer takes."""
    if not broken(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def broken(text: str) -> bool:
    """Whether the text holds surrogates."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def one_or_two(value: Any) -> Any:
    """Validator of a `text` field: a column's name, or a list of one or two; `ValueError` otherwise."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a column's name, or a list of two")
    if not 1 <= len(set(names)) == len(names) <= 2:
        raise ValueError("expected one column's name, or two different ones")
    return value
