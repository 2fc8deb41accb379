"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

#: What labels are: numbers of classes, whose outputs are logits [N, C], or real values, whose outputs are [N].
Labels = Literal["classes", "values"]


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
