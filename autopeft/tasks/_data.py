"""What a loaded task holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autopeft.readouts import Readout
from autopeft.tasks._pictures import Picture


@dataclass(frozen=True)
class Split:
    """Texts (or pairs of texts) and labels, in parallel; labels are as the readout encodes them, such as class numbers.

    `place` (a file, or a data set's split) and `numbers` (the line or row of each) are for messages only. `pictures`:
    the images, where `first` are their digests.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: tuple[Any, ...]
    place: str = field(default="", compare=False)
    numbers: tuple[int | str, ...] = field(default=(), compare=False, repr=False)
    pictures: tuple[Picture, ...] | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.first)

    def take(self, indices: Sequence[int]) -> Split:
        """The rows of those indices, in that order."""
        second = None if self.second is None else tuple(self.second[i] for i in indices)
        labels = tuple(self.labels[i] for i in indices)
        numbers = tuple(self.numbers[i] for i in indices) if self.numbers else ()
        pictures = None if self.pictures is None else tuple(self.pictures[i] for i in indices)
        return Split(tuple(self.first[i] for i in indices), second, labels, self.place, numbers, pictures)

    def at(self, index: int) -> str:
        """Where the row of that index was read, for a message; nothing where that is not known."""
        return f"{self.place}{self.numbers[index]}" if self.numbers else ""


@dataclass(frozen=True)
class TaskData:
    """A loaded task: three labelled splits, none of them empty, and how they are scored.

    `readout`: what the labels are. `metrics`: main one first. `note`: what each split is.
    `remarks`: sentences on what a user should know of the data before a search (see `Session.remarks`).
    `template`: how conversations are written: the name of a built-in chat template or Jinja text; None for the
    tokenizer's own (see `autopeft.formats.with_template`). `draws`: how often each row of train is drawn in an epoch,
    in the mean, as many times in all as there are rows; None for each once.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    readout: Readout
    metrics: tuple[str, ...]
    note: str
    remarks: tuple[str, ...] = ()
    template: str | None = None
    draws: tuple[float, ...] | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes by number; empty where there are none."""
        return self.readout.labels

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters that change with any text, label, class, metric, template or draw (not name or note)."""
        digest = hashlib.sha256(json.dumps([self.label_names, self.metrics, *self.readout.identity]).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(json.dumps([split.first, split.second, split.labels]).encode())
        if self.template is not None:
            digest.update(json.dumps(["template", self.template]).encode())
        if self.draws is not None:
            digest.update(json.dumps(["draws", self.draws]).encode())
        return digest.hexdigest()[:16]
