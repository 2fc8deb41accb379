"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

#: What labels are: numbers of classes, whose outputs are logits [N, C], real values, whose outputs are [N], or texts.
Labels = Literal["classes", "values", "texts"]


class Metric(ABC):
    """A measure of quality of N >= 1 outputs. Stateless: made without arguments."""

    name: ClassVar[str]
    #: One line for `autopeft list metrics`.
    description: ClassVar[str]
    #: Whether more or less of it is better.
    direction: ClassVar[Literal["max", "min"]] = "max"
    #: What labels it is of.
    labels: ClassVar[Labels]

    @abstractmethod
    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """Its value over N rows with finite outputs.

        `labels` [N]: int64 numbers of classes, or float64 values. `outputs`, float64: logits [N, C], or [N] for values.
        `positive`: the class that a metric of one of two classes is about, when the task names one.
        """


class TextMetric(Metric):
    """A measure of N >= 1 texts that a model has written, each beside its references, of which it has one at least.

    A plug-in gives `name`, `description` and `compare`. `package`: what has to be installed for it.
    """

    labels: ClassVar[Labels] = "texts"
    package: ClassVar[str] = ""

    @abstractmethod
    def compare(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Its value; texts and references have no white space around them."""

    def signature(self, references: Sequence[Sequence[str]]) -> str:
        """How it is computed, for a record; "" where its name says all."""
        return ""

    def complaint(self, references: Sequence[Sequence[str]]) -> str:
        """Why these references cannot be compared with, or ""."""
        return ""

    def of(self, labels: Any, outputs: Any, positive: int | None = None) -> float:
        """`compare` of texts (`outputs`) and references (`labels`)."""
        return self.compare(outputs, labels)
