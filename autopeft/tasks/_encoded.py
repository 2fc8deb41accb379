"""Rows with their labels encoded: splits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from autopeft.cells import clean
from autopeft.readouts import Readout
from autopeft.tasks._data import Split
from autopeft.tasks._rows import Raw, Rows


def encoded(raw: Raw, readout: Readout) -> tuple[Split, Split | None, Split | None]:
    """Train, validation and test with labels as the readout encodes them.

    `AutopeftError` with the row's place for a label that is none, or that no row of train has; with train's place when
    nothing can be learned from it.
    """
    train = split_of(raw.train, readout, None, "the classes of the set")
    readout.check(train.labels, raw.train.place)
    known = readout.seen(train.labels)
    validation, test = (
        None if rows is None else split_of(rows, readout, known, raw.train.place) for rows in (raw.validation, raw.test)
    )
    return train, validation, test


def split_of(rows: Rows, readout: Readout, known: Collection[Any] | None, known_in: str) -> Split:
    """One of them; `known` and `known_in` as for `Readout.encode`."""
    labels = readout.encode(rows, known, known_in)
    second = None if rows.second is None else tuple(map(clean, rows.second))
    numbers = tuple(rows.numbers or range(1, len(rows.first) + 1))
    pictures = None if rows.pictures is None else tuple(rows.pictures)
    return Split(tuple(map(clean, rows.first)), second, labels, f"{rows.place}{rows.mark}", numbers, pictures)
