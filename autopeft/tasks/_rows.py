"""Rows as a task reads them: texts, labels of some kind, and where each row stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.cells import clean, missing
from autopeft.errors import AutopeftError
from autopeft.readouts import Readout
from autopeft.tasks._data import TaskData
from autopeft.tasks._pictures import Picture


@dataclass(frozen=True)
class Rows:
    """One labelled split as read; `first`, `second` and `labels` run in parallel.

    `place` (a file, or a data set's split) and `numbers` (the line or row of each; 1, 2, ... when absent) are for
    messages only. Rows of one of the `groups` stay together when splits are cut. Labels are not yet encoded: strings,
    ints, floats or bools, or what `Readout.row` makes of a row. `pictures`: the images of a task of images, whose
    digests `first` are.
    """

    place: str
    first: Sequence[str]
    second: Sequence[str] | None
    labels: Sequence[Any]
    numbers: Sequence[int | str] | None = None
    mark: str = ", row "
    groups: Sequence[str] | None = None
    pictures: Sequence[Picture] | None = None

    def at(self, index: int) -> str:
        """Where the row of that index stands, for a message."""
        number = self.numbers[index] if self.numbers is not None else index + 1
        return f"{self.place}{self.mark}{number}"


@dataclass(frozen=True)
class Raw:
    """What a task hands to the split policy.

    `validation` and `test` are None where there is no labelled one. `label_names`: the classes in their order, or
    None for those of train, sorted. `readout`: the kind that the labels are of; None for what they look like.
    `metrics`: the task's own, main one first; empty for the readout's. `note`: what a reader should know.
    `template`: the chat template of conversations, as in `TaskData`. `inner`: the loaded tasks that the rows are from.
    """

    train: Rows
    validation: Rows | None = None
    test: Rows | None = None
    label_names: tuple[str, ...] | None = None
    readout: str | None = None
    metrics: tuple[str, ...] = ()
    note: str = ""
    template: str | None = None
    inner: tuple[TaskData, ...] = ()

    def splits(self) -> dict[str, Rows]:
        """The splits that there are, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in found.items() if rows is not None}


def collect(
    records: Iterable[tuple[int, Mapping[str, Any]]],
    text: Sequence[str],
    label: str,
    place: str,
    mark: str = ", row ",
    kind: type[Readout] | None = None,
) -> Rows:
    """The rows of `(number, record)` pairs; `AutopeftError` with the row's place when a value is missing.

    `text` names one or two columns, `label` the label's column, `kind` how rows are read (texts with a single value
    each, for None). No records at all is an error too.
    """
    read = (kind or Readout).row
    if label in text:
        raise AutopeftError(f"{place}: column '{label}' is named as text and as label; name another in 'label'")
    texts: list[list[str]] = [[] for _ in text]
    labels: list[Any] = []
    numbers: list[int] = []
    for number, record in records:
        where = f"{place}{mark}{number}"
        own, value = read(record, text, label, where)
        for values, one in zip(texts, own, strict=True):
            values.append(one)
        labels.append(value)
        numbers.append(number)
    if not labels:
        raise AutopeftError(f"{place}: no rows; a split needs at least one")
    return Rows(place, texts[0], texts[1] if len(texts) > 1 else None, labels, numbers, mark)


def columns_of(names: Sequence[str], text: Sequence[str], label: str, where: str, hint: str = "") -> list[int]:
    """Where the text columns and the label's stand among `names`, white space around names and Unicode forms aside.

    No label is looked for under "". `AutopeftError`, starting with `where` and closing with `hint`, for a column that
    isn't there or stands there twice.
    """
    found = []
    for column in (*text, label) if label else text:
        places = [i for i, name in enumerate(names) if name == column]
        places = places or [i for i, name in enumerate(names) if bare(name) == bare(column)]
        if not places:
            raise AutopeftError(f"{where}: {missing(column, label, names)}{hint}")
        if len(places) > 1:
            raise AutopeftError(f"{where}: {len(places)} columns are named '{column}'; rename all but one")
        found += places
    return found


def bare(name: str) -> str:
    """A column's name without white space around, in one Unicode form."""
    return unicodedata.normalize("NFC", clean(name)).strip()


def one_or_two(value: Any) -> Any:
    """Validator of a `text` field: None, a column's name, or a list of one or two; `ValueError` otherwise."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a column's name, or a list of two")
    if not 1 <= len(set(names)) == len(names) <= 2:
        raise ValueError("expected one column's name, or two different ones")
    return value
