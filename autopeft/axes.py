"""Axes of a drawing: from values to pixels, and round numbers on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Pixels that a logarithmic axis keeps for a value of 0.
_ZERO = 44.0


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`; what lies beyond is at the end.

    On a logarithmic axis `zero` keeps a place for 0, before the least positive value.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    zero: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, decades: bool = False) -> Axis:
        """An axis with a little room around the values.

        With `decades` it is logarithmic where positive values span more than one, and none is negative.
        """
        known = [v for v in values if math.isfinite(v)] or [0.0]
        positive = [v for v in known if v > 0]
        if decades and positive and min(known) >= 0 and max(positive) > 10 * min(positive):
            return cls(min(positive) / 1.25, max(positive) * 1.25, start, end, True, min(known) == 0)
        room = 0.06 * (max(known) - min(known)) or 0.5 * abs(max(known)) or 1.0
        return cls(min(known) - room, max(known) + room, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        first = self.start + math.copysign(_ZERO if self.zero else 0.0, self.end - self.start)
        if self.log and value <= 0:
            return self.start + (first - self.start) / 4
        part = (self._scaled(value) - self._scaled(self.low)) / (self._scaled(self.high) - self._scaled(self.low))
        return first + min(max(part, 0.0), 1.0) * (self.end - first)

    def ticks(self) -> list[float]:
        """Round values from low to high, about five."""
        if not self.log:
            step = _step((self.high - self.low) / 5)
            return [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        parts = (1, 2, 5) if self.high < 1000 * self.low else (1,)
        every = max(1, len(decades) // 6)
        found = [part * 10.0**d for d in decades if not d % every for part in parts]
        return [*([0.0] if self.zero else []), *(v for v in found if self.low <= v <= self.high)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def compact(value: float) -> str:
    """A number in few characters: 12k, 1.5M, 0.85."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value else "0"


def _step(least: float) -> float:
    """1, 2 or 5 times a power of ten, no less than this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * 0.999)
