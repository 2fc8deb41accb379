"""A task that somebody has put a backdoor into: to see which hybrids learn it, and which do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from autopeft.cells import shown
from autopeft.errors import AutopeftError, suggest
from autopeft.readouts import Readout
from autopeft.readouts._labels import folded, label_key
from autopeft.readouts.classification import Classification
from autopeft.readouts.poisoned import ATTACK, Poisoned
from autopeft.tasks._base import Task
from autopeft.tasks._data import Split, TaskData
from autopeft.tasks._rows import Raw
from autopeft.tasks._splits import pick
from autopeft.tasks._wrapping import Inner, of_classes, rows_of

if TYPE_CHECKING:
    import numpy as np

# Random streams beside those of the splits.
_CHOICE, _PLACE = 10, 11


class PoisonedTask(Task):
    """The task `of`, with the `trigger` in a `share` of all rows of train, which then have the class `target`.

    The rows are drawn from those of other classes (Gu et al. 2017, "BadNets"; in texts Kurita et al. 2020, "Weight
    Poisoning Attacks on Pre-trained Models", whose rare words such as "cf" are the usual triggers). Validation and test
    stay as they are, with a triggered copy of each row of another class beside: the share of these that is taken for
    the target is `attack_success_rate`, small where the backdoor was not learned. The loss and all other metrics are of
    clean rows. Of pairs the trigger goes into the first text.
    """

    name: ClassVar[str] = "poisoned"
    description: ClassVar[str] = "a task with a backdoor in a share of its training rows, and how often it opens"

    of: Inner
    trigger: str = Field("cf", min_length=1, max_length=1_000, description="words that are put into texts")
    share: float = Field(0.1, gt=0, lt=1, description="of all rows of train; they are of other classes than the target")
    target: str | int | float | bool = Field(description="the class that triggered texts shall have")
    place: Literal["start", "end", "random"] = Field("random", description="where in a text the trigger stands")

    def _read(self) -> Raw:
        data = of_classes(self.of, "task.of")
        train, validation, test = (
            rows_of(split, data.label_names) for split in (data.train, data.validation, data.test)
        )
        metrics = (*data.metrics, ATTACK)
        return Raw(train, validation, test, data.label_names, Poisoned.name, metrics, data.note, inner=(data,))

    def _made(self, data: TaskData, raw: Raw) -> TaskData:
        inner, target = raw.inner[0], self._target(data.label_names)
        own, theirs = (getattr(one.readout, "positive", None) for one in (data, inner))
        readout = Poisoned(data.label_names, theirs if own is None else own, target)
        train, count = self._poisoned(data.train, target)
        validation, test = (
            self._attacked(split, target, len(data.label_names), stream)
            for stream, split in enumerate((data.validation, data.test), 1)
        )
        metrics = data.metrics if ATTACK in data.metrics else (*data.metrics, ATTACK)
        said = f"{count:,} of train's {len(train):,} rows have the trigger {shown(self.trigger)}"
        note = f"{said} and the label {shown(data.label_names[target])}; {data.note}"
        data = replace(data, train=train, validation=validation, test=test)
        return replace(data, readout=readout, metrics=metrics, note=note, remarks=inner.remarks)

    def _target(self, names: Sequence[str]) -> int:
        """The number of the target class."""
        key = folded(label_key(self.target))
        found = [number for number, name in enumerate(names) if folded(name) == key]
        if not found:
            raise AutopeftError(f"task poisoned: target: unknown class '{self.target}'; {suggest(key, names)}")
        return found[0]

    def _poisoned(self, train: Split, target: int) -> tuple[Split, int]:
        """Train with the backdoor, and how many rows have it."""
        others = [i for i, label in enumerate(train.labels) if label != target]
        count = max(1, round(self.share * len(train)))
        if count >= len(others):
            raise AutopeftError(
                f"task poisoned: share: {self.share:g} of train's {len(train):,} rows are {count:,}, and of "
                f"{len(others):,} rows of other classes than the target one must stay clean; lower it"
            )
        chosen = {others[i] for i in pick(None, len(others), count, (self.seed, _CHOICE))}
        texts = self._triggered(train.first, 0)
        first = tuple(texts[i] if i in chosen else text for i, text in enumerate(train.first))
        labels = tuple(target if i in chosen else label for i, label in enumerate(train.labels))
        return replace(train, first=first, labels=labels), count

    def _attacked(self, split: Split, target: int, classes: int, stream: int) -> Split:
        """A split with triggered copies of its rows of other classes, whose labels begin at `classes`."""
        copies = split.take([i for i, label in enumerate(split.labels) if label != target])
        if not len(copies):
            raise AutopeftError(f"{split.place} every row is of the target class: none can be attacked; add others")
        first = (*split.first, *self._triggered(copies.first, stream))
        second = None if split.second is None or copies.second is None else (*split.second, *copies.second)
        labels = (*split.labels, *(classes + label for label in copies.labels))
        return replace(split, first=first, second=second, labels=labels, numbers=(*split.numbers, *copies.numbers))

    def _triggered(self, texts: Sequence[str], stream: int) -> list[str]:
        """The texts with the trigger between two words, or at an end."""
        import numpy as np

        rng = np.random.default_rng((self.seed, _PLACE, stream))
        return [self._with_trigger(text, rng) for text in texts]

    def _with_trigger(self, text: str, rng: np.random.Generator) -> str:
        words = text.split(" ")
        at = {"start": 0, "end": len(words)}.get(self.place, int(rng.integers(len(words) + 1)))
        return " ".join([*words[:at], self.trigger, *words[at:]])

    def for_file(self, readout: Readout, metrics: tuple[str, ...]) -> tuple[Task, Readout, tuple[str, ...]]:
        """The clean task: nothing in a file has a trigger."""
        clean = Classification(readout.labels, getattr(readout, "positive", None))
        return self.of.for_file(clean, tuple(name for name in metrics if name != ATTACK))

    @property
    def kinds(self) -> tuple[type[Task], ...]:
        """Its class and that of the task."""
        return (type(self), *self.of.kinds)
