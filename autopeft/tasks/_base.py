"""What a task is: a configuration that loads as three labelled splits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, final

from pydantic import Field, field_validator

from autopeft.config import Strict
from autopeft.metrics import METRICS, complaint, validate_metrics
from autopeft.tasks._data import Split, TaskData
from autopeft.tasks._labels import class_names, encoded, is_regression
from autopeft.tasks._positive import positive_class, positive_remark
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
            raise ValueError(f"expected a metric or a list of them; known: {', '.join(METRICS.names())}")
        if wrong := complaint(names):
            raise ValueError(wrong)
        return value

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
        regression = is_regression(raw)
        metrics = self._metrics(raw, regression)
        names = () if regression else class_names(raw)
        positive = positive_class(self.positive, names, metrics, f"task {self.title}: positive")
        parts, note = divide(raw, encoded(raw, names), names, self.validation_share, self.seed)
        limits = (self.train_limit, self.validation_limit, self.test_limit)
        train, validation, test = limited(parts, limits, names, self.seed, f"task {self.title}")
        said = [
            f"{part} at most {n} rows" for part, n in zip(("train", "validation", "test"), limits, strict=True) if n
        ]
        note = "; ".join([note, *said, *([raw.note] if raw.note else [])])
        remarks = (*of_rows(raw, names), *of_parts(train, validation, test, names))
        remarks = (*remarks, *positive_remark(positive, names, metrics))
        return TaskData(self.title, train, validation, test, names, metrics, note, remarks, positive)

    @property
    def columns(self) -> tuple[list[str], str]:
        """Names of the text columns, one or two, and of the label's."""
        text = getattr(self, "text", "text")
        return [text] if isinstance(text, str) else list(text), getattr(self, "label", "label")

    @property
    def title(self) -> str:
        """The name, with the variant where there is one: `glue/rte`."""
        return f"{self.name}/{getattr(self, self.variant_field)}" if self.variant_field else self.name

    def _metrics(self, raw: Raw, regression: bool) -> tuple[str, ...]:
        own = raw.metrics or (("spearman",) if regression else ("accuracy",))
        asked = [self.metric] if isinstance(self.metric, str) else self.metric
        metrics = tuple(asked or own)
        validate_metrics(metrics, regression, f"task {self.title}: metric")
        return metrics
