"""Dimensions of a search space: an index into a list of values, or a number in a range."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from optuna import Trial
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Ordinal:
    """A choice from `values`; a point holds the index. `kind` bit: a layer is off (0) or on (1).

    `layer` and `block` say what a size or a bit is of; a size without a layer is that of all layers. Sizes stand in the
    order of the parameters that they train, which is ascending for most methods.
    """

    name: str
    values: tuple[int | float, ...]
    kind: Literal["size", "bit", "training"] = "size"
    layer: int | None = None
    block: str | None = None

    def value(self, raw: float) -> int | float:
        """What a coordinate of a point stands for."""
        return self.values[int(raw)]

    def raw(self, value: float) -> int:
        """The coordinate that stands for a value; `ValueError` when there is none."""
        return self.values.index(value)

    def contains(self, raw: Any) -> bool:
        """Whether a coordinate is in the domain."""
        return isinstance(raw, Integral) and 0 <= int(raw) < len(self.values)

    def random(self, rng: Generator) -> int:
        """A uniform coordinate."""
        return int(rng.integers(len(self.values)))

    def suggest(self, trial: Trial) -> int:
        """The coordinate of an Optuna trial."""
        return trial.suggest_int(self.name, 0, len(self.values) - 1)

    def distribution(self) -> BaseDistribution:
        """The same domain for Optuna."""
        from optuna.distributions import IntDistribution

        return IntDistribution(0, len(self.values) - 1)


@dataclass(frozen=True)
class Continuous:
    """A number in [low, high], on a logarithmic scale when `log`; a point holds the number itself.

    Proposals come from that range. A search may widen it as far as `bounds` (see `searching.widening`), and what lies
    within these is of the space.
    """

    name: str
    low: float
    high: float
    log: bool
    kind: Literal["training"] = "training"
    bounds: tuple[float, float] | None = None

    @property
    def domain(self) -> tuple[float, float]:
        """The least and the largest coordinate that a point may have."""
        return self.bounds or (self.low, self.high)

    def ranging(self, low: float, high: float) -> Self:
        """The same over a range within its domain that holds these numbers and its own range."""
        least, most = self.domain
        return replace(self, low=max(least, min(self.low, low)), high=min(most, max(self.high, high)))

    def value(self, raw: float) -> float:
        """The coordinate itself."""
        return float(raw)

    def raw(self, value: float) -> float:
        """The value itself; `ValueError` outside the range."""
        least, most = self.domain
        if not least <= value <= most:
            raise ValueError(f"{value} is outside {least} to {most}")
        return float(value)

    def contains(self, raw: Any) -> bool:
        """Whether a coordinate is in the domain."""
        least, most = self.domain
        return isinstance(raw, (int, float)) and least <= raw <= most

    def random(self, rng: Generator) -> float:
        """A coordinate uniform on the dimension's scale."""
        return self.at(rng.uniform())

    def at(self, part: float) -> float:
        """The coordinate at that part (0 to 1) of the way from low to high, on the dimension's scale."""
        if not self.log:
            return self.low + part * (self.high - self.low)
        drawn = math.exp(math.log(self.low) + part * (math.log(self.high) - math.log(self.low)))
        return min(max(drawn, self.low), self.high)

    def parts(self, values: np.ndarray) -> np.ndarray:
        """How far coordinates [N] are from low (0) to high (1), on the dimension's scale: the inverse of `at`."""
        import numpy as np

        low, high = self.low, self.high
        parts: np.ndarray = np.log(values / low) / math.log(high / low) if self.log else (values - low) / (high - low)
        return parts

    def suggest(self, trial: Trial) -> float:
        """The coordinate of an Optuna trial."""
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def distribution(self) -> BaseDistribution:
        """The same domain for Optuna."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)


Dimension = Ordinal | Continuous


def ranges_of(dimensions: Iterable[Dimension]) -> tuple[Continuous, ...]:
    """Those that are ranges of numbers."""
    return tuple(d for d in dimensions if isinstance(d, Continuous))
