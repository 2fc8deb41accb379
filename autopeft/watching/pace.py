"""How much longer trainings take than is expected of them, and when workers will have done what is left."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

#: Deviations of logarithms. A machine may be busy with other things, so that all takes several times as long; one
#: training differs from others by so much, and what it takes beside its products differs by more.
_BUSY, _PRODUCTS, _BESIDE = 1.5, 0.2, 0.5
#: What has ended counts less with each that ends after it: a machine may become busy.
_KEPT = 0.8
#: Trainings for each worker, beyond which it does not matter who gets which.
_MANY = 64


@dataclass(frozen=True)
class Pace:
    """Seconds that an expected second takes: the weighted mean of logarithms of what was seen, and of 1 before that."""

    total: float = 0.0
    weight: float = 0.0

    def after(self, seconds: float, expected: float, beside: float) -> Self:
        """What has ended took so many seconds; of those expected for it, so many are beside its products.

        Small trainings are hardly more than the latter, and tell less of others. Nothing where they are faster than
        expected: no machine is much faster than it was measured, but what is beside products may be less.
        """
        if seconds <= 0 or expected <= 0:
            return self
        share = min(1.0, beside / expected)
        weight = (1.0 if seconds > expected else (1 - share) ** 2) / (_PRODUCTS**2 + (_BESIDE * share) ** 2)
        total = _KEPT * self.total + weight * math.log(seconds / expected)
        return type(self)(total, _KEPT * self.weight + weight)

    @property
    def factor(self) -> float:
        """The pace."""
        return math.exp(self.total / (self.weight + 1 / _BUSY**2))


def makespan(running: Sequence[float], left: Iterable[float], workers: int) -> float:
    """Seconds until `workers` have done what is left, in its order, that have so many seconds to do of what runs."""
    items = list(left)
    loads = sorted(running, reverse=True)[:workers] + [0.0] * (workers - len(running))
    if len(items) > _MANY * workers:
        return max(max(loads), (sum(loads) + sum(items)) / workers)
    heapq.heapify(loads)
    for seconds in items:
        heapq.heapreplace(loads, loads[0] + seconds)
    return max(loads)
