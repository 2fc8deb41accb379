"""The grid of learning rates, and the choice among them on validation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autopeft.comparing.state import Training
from autopeft.searching.objective import Objective

#: Two neighbours of a grid are half a decade apart.
_STEP = math.sqrt(10)
RATES = 4


def grid(centre: float, count: int = RATES) -> list[float]:
    """So many rates around a centre, in rising order, with two digits."""
    return [float(f"{centre * _STEP ** (i - (count - 1) / 2):.1e}") for i in range(count)]


def choose(metric: str, trainings: Sequence[Training]) -> Training | None:
    """The best validation score; of equal ones the least validation loss, then the lowest rate. None when all failed.

    Test metrics are not looked at.
    """
    objective = Objective.of(metric)

    def order(training: Training) -> tuple[float, float, float]:
        loss = objective.loss(training.validation[metric])
        return loss, training.validation.get("loss", math.inf), training.learning_rate

    return min((t for t in trainings if metric in t.validation), key=order, default=None)
