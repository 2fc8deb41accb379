"""Several tasks at once: one adapter for the texts of all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from autopeft.errors import AutopeftError
from autopeft.readouts import Readout
from autopeft.readouts.mixed import BETWEEN, MEAN, Mixed
from autopeft.tasks._base import Task
from autopeft.tasks._data import Split, TaskData
from autopeft.tasks._rows import Raw, Rows
from autopeft.tasks._wrapping import Inner, of_classes, rows_of

_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")


class Mix(Task):
    """Tasks `of` one class a text, by names of one's own; an adapter and a head with the classes of all.

    Each is split and limited as its own fields say. An epoch has as many rows as train; `weights` say how they are
    drawn, anew each epoch: `size` takes each row once, `equal` as many rows of each task, and `temperature` a share of
    n^(1 / temperature) of a task of n rows (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section
    3.5.2). A task's rows are repeated as evenly as can be, and never left out for good. Where some tasks have pairs of
    texts, the others' second text is empty.
    The score is `mean_score`, beside `<name>.<metric>` of each task.
    """

    name: ClassVar[str] = "mix"
    description: ClassVar[str] = "several tasks at once: one adapter for all, a score for each and their mean"

    of: dict[str, Inner] = Field(min_length=2, max_length=50, description="tasks by name")
    weights: Literal["equal", "size", "temperature"] = Field("size", description="how many rows each gives an epoch")
    temperature: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        None, description="of weights: temperature (2): 1 is size, and the larger, the more equal"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in self.of:
            if not _NAME.fullmatch(name):
                raise ValueError(f"of: '{name}': names are letters, digits, '_' and '-'")
        if self.temperature is not None and self.weights != "temperature":
            raise ValueError(f"temperature: changes nothing with 'weights: {self.weights}'; leave it out")
        return self

    def _read(self) -> Raw:
        found = {name: of_classes(task, f"task.of.{name}") for name, task in self.of.items()}
        names = {name: tuple(f"{name}{BETWEEN}{label}" for label in data.label_names) for name, data in found.items()}
        train, validation, test = (
            _joined([rows_of(getattr(data, split), names[name]) for name, data in found.items()])
            for split in ("train", "validation", "test")
        )
        metrics = (MEAN, *(f"{name}.{metric}" for name, data in found.items() for metric in data.metrics))
        note, inner = "; ".join(f"{name}: {data.note}" for name, data in found.items()), tuple(found.values())
        return Raw(train, validation, test, tuple(chain(*names.values())), Mixed.name, metrics, note, inner=inner)

    def _made(self, data: TaskData, raw: Raw) -> TaskData:
        readout, draws = data.readout, self._draws(data.train, raw.inner)
        positives = tuple(getattr(one.readout, "positive", None) for one in raw.inner)
        if isinstance(readout, Mixed) and any(positive is not None for positive in positives):
            readout = replace(readout, positives=positives)
        rows = ", ".join(f"{name} {count:,}" for name, count in zip(self.of, _rows(data.train, raw.inner), strict=True))
        note = f"rows of train: {rows}, drawn by {self.weights}; {data.note}"
        remarks = tuple(f"{name}: {said}" for name, one in zip(self.of, raw.inner, strict=True) for said in one.remarks)
        return replace(data, readout=readout, draws=draws, note=note, remarks=remarks)

    def _draws(self, train: Split, inner: Sequence[TaskData]) -> tuple[float, ...] | None:
        """How often each row is drawn in an epoch, in the mean."""
        if self.weights == "size":
            return None
        counts, power = _rows(train, inner), 0.0 if self.weights == "equal" else 1 / (self.temperature or 2.0)
        shares = [count**power for count in counts]
        often = [len(train) * share / sum(shares) / count for share, count in zip(shares, counts, strict=True)]
        of_class = list(chain(*([each] * len(one.label_names) for each, one in zip(often, inner, strict=True))))
        return tuple(of_class[label] for label in train.labels)

    def for_file(self, readout: Readout, metrics: tuple[str, ...]) -> tuple[Task, Readout, tuple[str, ...]]:
        """None: a file has the rows of one task."""
        raise AutopeftError(
            f"task mix: a file has rows of one task, and these are {', '.join(self.of)}; in evaluate_on name a mix of "
            "files with the same names"
        )

    @property
    def kinds(self) -> tuple[type[Task], ...]:
        """Its class and those of its tasks."""
        return (type(self), *(kind for task in self.of.values() for kind in task.kinds))


def _rows(train: Split, inner: Sequence[TaskData]) -> list[int]:
    """How many rows each task has."""
    counts, found, start = Counter(train.labels), [], 0
    for one in inner:
        end = start + len(one.label_names)
        found.append(sum(counts[label] for label in range(start, end)))
        start = end
    return found


def _joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several tasks, one after another; where some are pairs, the others have an empty second text."""
    pairs = any(part.second is not None for part in parts)
    labels = [label for part in parts for label in part.labels]
    first = [text for part in parts for text in part.first]
    second = [text for part in parts for text in (part.second or [""] * len(part.first))] if pairs else None
    places = [part.at(i) for part in parts for i in range(len(part.first))]
    return Rows("", first, second, labels, places, "")
