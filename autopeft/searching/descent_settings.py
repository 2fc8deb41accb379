"""The field `descent` of an experiment."""

from __future__ import annotations

import math

from pydantic import Field

from autopeft.config import Strict

#: What a cut leaves where there is time, and at least; costs are whole numbers, so the last cut needs some room.
_HALF, _MOST_OFF, _SPARE = 0.5, 0.2, 1.2


class DescentSettings(Strict):
    """How a search descends.

    `factor` is the share of the cost that each cut leaves (None: see `factor_for`), `least` the share of the largest
    hybrid's at which it ends, `share` that of the search's trials which it may take.
    """

    factor: float | None = Field(
        None, gt=0.05, lt=0.95, description="share of the cost that each cut leaves; default: half, less in few trials"
    )
    epochs: int | None = Field(
        None, ge=1, le=10_000, description="of healing; default: a third of a training, small ones up to a whole one"
    )
    rates: list[float] = Field([1.0, 2.5], min_length=1, max_length=8, description="of healing, times the parent's")
    share: float = Field(0.5, gt=0, le=1, description="of the trials, and of a time limit, at most")
    least: float = Field(0.002, gt=0, lt=1, description="share of the largest hybrid's cost at which it ends")

    def factor_for(self, steps: float) -> float:
        """The share that each of so many cuts leaves: half, or less where half would not come down to `least`.

        Down to a quarter of the large hybrid a cut loses next to nothing, so few steps may be large ones.
        """
        if self.factor is not None:
            return self.factor
        if steps == math.inf:
            return _HALF
        return max(_MOST_OFF, min(_HALF, (_SPARE * self.least) ** (1 / max(1, steps // 1))))
