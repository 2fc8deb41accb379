"""What a task is: a configuration that loads as three labelled splits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self, final

from pydantic import Field, field_validator, model_validator

from autopeft.config import Strict
from autopeft.errors import AutopeftError, suggest
from autopeft.readouts import READOUTS, Readout, complaint, inferred, known_metrics
from autopeft.tasks._data import Split, TaskData
from autopeft.tasks._encoded import encoded
from autopeft.tasks._remarks import of_parts, of_rows
from autopeft.tasks._rows import Raw
from autopeft.tasks._splits import divide, limited

__all__ = ["Split", "Task", "TaskData"]


class Task(Strict):
    """Base of the tasks: a frozen configuration that `load` turns into data.

    A plug-in gives `name`, `description` and `_read`; `load` applies the split policy, the checks and the limits.
    `variant_field`: the field that `name/variant` sets.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    variant_field: ClassVar[str] = ""

    metric: str | list[str] | None = Field(None, description="the first one is the score; else what fits the labels")
    readout: str | None = Field(None, description="what the labels are; else what they look like")
    positive: str | int | float | bool | None = Field(
        None, description="the class that f1 is of; else the later of two"
    )
    train_limit: int | None = Field(default=None, ge=1, description="at most so many examples")
    validation_limit: int | None = Field(default=None, ge=1, description="at most so many examples")
    test_limit: int | None = Field(default=None, ge=1, description="at most so many examples")
    seed: int = Field(default=0, ge=0)
    # At most 0.3: with validation and test both cut, train keeps rows of every class.
    validation_share: float = Field(default=0.1, gt=0, le=0.3, description="of train, where it is cut from that")

    @field_validator("metric", mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if names is None:
            return None
        if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expected a metric or a list of them; known: {', '.join(known_metrics())}")
        if wrong := complaint(names):
            raise ValueError(wrong)
        return value

    @field_validator("readout")
    @classmethod
    def _known_readout(cls, value: str | None) -> str | None:
        known = {name: kind for name, kind in READOUTS.all().items() if not kind.of_task}
        if value is not None and value not in known:
            if value in READOUTS.names():
                raise ValueError(f"readout '{value}' is that of the task '{READOUTS.get(value).of_task}' alone")
            raise ValueError(f"unknown readout '{value}'; {suggest(value, known)}")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.readout is not None and getattr(self, "regression", None) is not None:
            raise ValueError("'readout' and 'regression' say the same; leave 'regression' out")
        return self

    @abstractmethod
    def _read(self) -> Raw:
        """The labelled rows that there are; `AutopeftError` with the place where they can't be read."""

    @final
    def load(self) -> TaskData:
        """The data: the same for the same configuration and sources.

        Labelled train, validation and test are used as they are. Without a labelled test, the validation split becomes
        the test. What is then missing is cut from train, `validation_share` of it each, by class. The limits come last.
        `AutopeftError` when rows can't be read, or don't allow it.
        """
        raw = self._read()
        asked, declared = self.readout or raw.readout, raw.label_names is not None
        kind = READOUTS.get(asked) if asked else inferred(raw.train, declared)
        readout = kind.of(raw.train, raw.label_names).seeded(self.seed)
        metrics = self._metrics(raw, readout)
        readout = readout.with_positive(self.positive, metrics, f"task {self.title}: positive")
        names = readout.strata
        parts, note = divide(raw, encoded(raw, readout), names, self.validation_share, self.seed)
        limits = (self.train_limit, self.validation_limit, self.test_limit)
        train, validation, test = limited(parts, limits, names, self.seed, f"task {self.title}")
        said = [
            f"{part} at most {n} rows" for part, n in zip(("train", "validation", "test"), limits, strict=True) if n
        ]
        # What other tasks are made of was divided and looked at there.
        note = "; ".join([*([] if raw.inner else [note]), *said, *([raw.note] if raw.note else [])])
        remarks = () if raw.inner else (*of_rows(raw), *readout.remarks(raw.train, declared))
        remarks += () if raw.inner else of_parts(train, validation, test, names, readout.given)
        remarks += readout.metric_remarks(metrics)
        data = TaskData(self.title, train, validation, test, readout, metrics, note, remarks, raw.template)
        return self._made(data, raw)

    def _made(self, data: TaskData, raw: Raw) -> TaskData:
        """What becomes of the data when they are split and limited."""
        return data

    def for_file(self, readout: Readout, metrics: tuple[str, ...]) -> tuple[Task, Readout, tuple[str, ...]]:
        """The task, the labels and the metrics of a file with the columns of this one; `AutopeftError` for none."""
        return self, readout, metrics

    @property
    def kinds(self) -> tuple[type[Task], ...]:
        """Its class, and those of the tasks that it is made of."""
        return (type(self),)

    @property
    def labelled(self) -> tuple[list[str], str]:
        """Names of the text columns, one or two, and of the label's."""
        text = getattr(self, "text", "text")
        return [text] if isinstance(text, str) else list(text), getattr(self, "label", "label")

    @property
    def title(self) -> str:
        """The name, with the variant where there is one: `glue/rte`."""
        return f"{self.name}/{getattr(self, self.variant_field)}" if self.variant_field else self.name

    def _metrics(self, raw: Raw, readout: Readout) -> tuple[str, ...]:
        asked = [self.metric] if isinstance(self.metric, str) else self.metric
        metrics = tuple(asked or raw.metrics or readout.default_metrics)
        if wrong := complaint(metrics, readout):
            raise AutopeftError(f"task {self.title}: metric: {wrong}")
        return metrics
