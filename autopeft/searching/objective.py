"""What a search makes large or small."""

from __future__ import annotations

from typing import Literal, Self

from autopeft.config import Strict
from autopeft.costs import COSTS
from autopeft.readouts import direction


class Objective(Strict):
    """A metric of the task or a cost, and which way is better."""

    metric: str
    direction: Literal["max", "min"]

    @classmethod
    def of(cls, metric: str) -> Self:
        """With the usual direction: costs and errors small, scores large."""
        if metric in COSTS.names() or metric == "loss":
            return cls(metric=metric, direction="min")
        return cls(metric=metric, direction=direction(metric))

    @property
    def is_cost(self) -> bool:
        """Whether it is known before training."""
        return self.metric in COSTS.names()

    def loss(self, value: float) -> float:
        """The value turned so that less is better."""
        return value if self.direction == "min" else -value
