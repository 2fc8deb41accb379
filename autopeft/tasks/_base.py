"""What a task is, what it delivers, and the policy for splits that all tasks share."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

from pydantic import Field, field_validator

from autopeft.config import Strict
from autopeft.errors import AutopeftError
from autopeft.tasks._metrics import check_names, validate_metrics
from autopeft.tasks._rows import Raw, Rows, class_names, class_numbers, is_regression, real_values
from autopeft.tasks._splits import pick, rest

# Each random choice has a stream of its own, so that e.g. a train_limit does not move the validation rows.
_CUT_TEST, _CUT_VALIDATION, _LIMIT_TRAIN, _LIMIT_VALIDATION, _LIMIT_TEST = range(5)


@dataclass(frozen=True)
class Split:
    """Texts (or pairs of texts) and labels, in parallel; labels are class numbers, or floats for regression."""

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: tuple[int, ...] | tuple[float, ...]

    def __len__(self) -> int:
        return len(self.first)

    def take(self, indices: Sequence[int]) -> Split:
        """The rows of those indices, in that order."""
        second = None if self.second is None else tuple(self.second[i] for i in indices)
        return Split(tuple(self.first[i] for i in indices), second, tuple(self.labels[i] for i in indices))


@dataclass(frozen=True)
class TaskData:
    """A loaded task: three labelled splits, none of them empty, and how they are scored.

    `label_names`: the classes by number, empty for regression. `metrics`: main one first. `note`: what each split is.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    note: str

    @property
    def is_regression(self) -> bool:
        """Whether labels are real values."""
        return not self.label_names

    @property
    def num_labels(self) -> int:
        """The number of outputs that a model needs: the classes, or 1 for regression."""
        return len(self.label_names) or 1

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters that change with any text, label, class name or metric (not with name or note)."""
        digest = hashlib.sha256(json.dumps([self.label_names, self.metrics]).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(json.dumps([split.first, split.second, split.labels]).encode())
        return digest.hexdigest()[:16]


class Task(Strict):
    """Base of the tasks: a frozen configuration that `load` turns into data.

    A plug-in gives `name`, `description` and `_read`; `load` applies the split policy, the checks and the limits.
    `variant_field`: the field that `name/variant` sets. `path_fields`: those that hold files' paths.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    variant_field: ClassVar[str] = ""
    path_fields: ClassVar[tuple[str, ...]] = ()

    metric: str | list[str] | None = None
    train_limit: int | None = Field(None, ge=1)
    validation_limit: int | None = Field(None, ge=1)
    test_limit: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    # At most 0.3: with validation and test both cut, train keeps rows of every class.
    validation_share: float = Field(0.1, gt=0, le=0.3)

    @field_validator("metric", mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        if value is not None:
            check_names(value)
        return value

    @abstractmethod
    def _read(self) -> Raw:
        """The labelled rows there are; `AutopeftError` with the place where they can't be read."""

    @final
    def load(self) -> TaskData:
        """The data: the same for the same configuration and sources.

        Labelled train, validation and test are used as they are. Without a labelled test, the validation split becomes
        the test. What is missing is cut from train, `validation_share` of it each, by class. `AutopeftError` otherwise.
        """
        raw = self._read()
        regression = is_regression(raw)
        metrics = self._metrics(raw, regression)
        names = () if regression else class_names(raw)
        splits, note = self._divide(raw, _encode(raw, names), names)
        train, validation, test = (self._limited(*part, names) for part in zip(("train", "validation", "test"), splits, strict=True))
        limits = [f"{key} at most {limit} rows" for key, limit in self._limits().items() if limit is not None]
        note = "; ".join(filter(None, [note, ", ".join(limits), raw.note]))
        return TaskData(self._title(), train, validation, test, names, metrics, note)

    def _title(self) -> str:
        return f"{self.name}/{getattr(self, self.variant_field)}" if self.variant_field else self.name

    def _metrics(self, raw: Raw, regression: bool) -> tuple[str, ...]:
        own = raw.metrics or (("spearman",) if regression else ("accuracy",))
        asked = [self.metric] if isinstance(self.metric, str) else self.metric
        metrics = tuple(asked or own)
        validate_metrics(metrics, regression, f"task {self._title()}: metric")
        return metrics

    def _limits(self) -> dict[str, int | None]:
        return {"train": self.train_limit, "validation": self.validation_limit, "test": self.test_limit}
