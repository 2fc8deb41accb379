"""The budget: hard limits on costs that are known before training, and the repair of points that break them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from autopeft.anatomy import ModelShape
from autopeft.costs import COSTS
from autopeft.errors import AutopeftError, shown
from autopeft.hybrid import Hybrid
from autopeft.space import Point, SearchSpace

if TYPE_CHECKING:
    from numpy.random import Generator

_AMOUNT = re.compile(r"(-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?)\s*([%kKMGT]?)(B?)")
#: No cost of a model comes near, and what follows (databases, arrays) has 63 bits.
_MOST = 10**18
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def costs_of(hybrid: Hybrid, shape: ModelShape, length: int, names: Iterable[str] | None = None) -> dict[str, int]:
    """The named costs of a hybrid (all when None) for sequences of `length` tokens, exactly."""
    return {name: COSTS.get(name)().of(hybrid, shape, length) for name in (COSTS.names() if names is None else names)}


@dataclass(frozen=True)
class Budget:
    """`limits`: the largest allowed value of each limited cost; `length`: tokens a sequence, for costs in FLOPs.

    Without limits everything fits. Limited costs never fall when a level of a dimension rises (`check_feasible` holds
    that): feasibility and repair rest on it.
    """

    limits: Mapping[str, int] = field(default_factory=dict, hash=False)
    length: int = 128

    @classmethod
    def resolve(cls, raw: Mapping[str, Any], shape: ModelShape, length: int) -> Self:
        """Numbers, `"1.2M"` (k, M, G, T) and `"0.5%"` of the cost's reference, as whole numbers, rounded down.

        Of bytes `"8GB"` too.
        """
        limits = {}
        for name, value in raw.items():
            try:
                cost = COSTS.get(name)()
            except AutopeftError as error:
                raise AutopeftError(f"budget.{name}: {error}") from None
            limits[name] = _amount(value, cost.reference(shape, length), f"budget.{name}", cost.unit == "bytes")
        return cls(limits, length)

    def costs(self, hybrid: Hybrid, shape: ModelShape) -> dict[str, int]:
        """The limited costs of a hybrid."""
        return costs_of(hybrid, shape, self.length, self.limits)

    def excess(self, hybrid: Hybrid, shape: ModelShape) -> dict[str, int]:
        """By how much each broken limit is exceeded; empty when the hybrid fits."""
        costs = self.costs(hybrid, shape)
        return {name: costs[name] - limit for name, limit in self.limits.items() if costs[name] > limit}

    def fits(self, hybrid: Hybrid, shape: ModelShape) -> bool:
        """Whether no limit is exceeded."""
        return not self.excess(hybrid, shape)

    def smallest(self, space: SearchSpace) -> dict[str, int]:
        """For each limited cost, its least value among the non-empty hybrids of the space."""
        costs = [self.costs(hybrid, space.shape) for hybrid in _atoms(space)]
        return {name: min(c[name] for c in costs) for name in self.limits}

    def check_feasible(self, space: SearchSpace) -> None:
        """`AutopeftError` with the limits that are too low when no hybrid of the space fits but the empty one.

        And for a block whose sizes have no order in which all limited costs rise.
        """
        self._check_order(space)
        if any(self.fits(hybrid, space.shape) for hybrid in _atoms(space)):
            return
        least = self.smallest(space)
        broken = [n for n in self.limits if least[n] > self.limits[n]]
        # Each limit alone may be met by some hybrid, and all of them by none.
        together = "" if broken else " together"
        named = broken or list(self.limits)
        limits = " and ".join(f"{n} <= {self.limits[n]:,}" for n in named)
        needs = ", ".join(f"{least[n]:,}" for n in named)
        raise AutopeftError(
            f"budget: nothing in the space fits {limits}{together}; the smallest non-empty hybrid needs {needs}"
        )

    def _check_order(self, space: SearchSpace) -> None:
        """Sizes are in the order of what is trained; `AutopeftError` where another limited cost falls in it."""
        first = {d.block: d for d in reversed(space.structure) if d.kind == "size"}
        base = {d.name: int(d.kind == "bit") for d in space.dimensions}
        for block, dimension in first.items():
            points = [base | {dimension.name: level} for level in range(len(dimension.values))]
            bills = [self.costs(space.hybrid(point), space.shape) for point in points]
            for (size, less), (other, more) in pairwise(zip(dimension.values, bills, strict=True)):
                fallen = next((name for name in self.limits if more[name] < less[name]), None)
                if fallen is not None:
                    raise AutopeftError(
                        f"budget.{fallen}: falls from {less[fallen]:,} to {more[fallen]:,} between sizes {size} and "
                        f"{other} of block '{block}', which train more and more; limit another cost, or leave one of "
                        "the sizes out"
                    )

    def least_share(self, space: SearchSpace) -> float:
        """The smallest share for `tightened` at which some non-empty hybrid meets each limit; 1 without limits."""
        floor, least = self._floor(space), self.smallest(space)
        spans = [(least[n] - floor[n]) / (limit - floor[n]) for n, limit in self.limits.items() if limit > floor[n]]
        return min(1.0, max(spans, default=1.0))

    def tightened(self, space: SearchSpace, share: float) -> Budget:
        """A budget within this one: that share (0 to 1) of the way from the smallest hybrid of the space to the limits.

        The smallest hybrid is most often the empty one, which costs no parameters, but all FLOPs of the backbone.
        """
        floor = self._floor(space)
        lowered = {n: floor[n] + math.ceil(share * (limit - floor[n])) for n, limit in self.limits.items()}
        return Budget(lowered, self.length)

    def _floor(self, space: SearchSpace) -> dict[str, int]:
        return self.costs(space.smallest, space.shape)

    def repair(self, space: SearchSpace, point: Point, rng: Generator) -> tuple[dict[str, int | float], bool]:
        """(The point brought within the limits, whether it had to be changed); training dimensions stay.

        Sizes and layer bits are lowered one level at a time in a random order of all their levels, until the hybrid
        fits; costs never rise on the way, so the first fit is found by bisection. Then the order is walked back, and
        every level that still fits is put back: so the result can't be raised towards `point` anywhere, which matters
        for costs that jump, such as training FLOPs with the lowest adapted layer. Drawing levels and not dimensions
        keeps more methods alive (31 against 20 on average at 0.2% of BERT-base). Deterministic for the generator.
        """
        repaired = dict(point)
        if self._fits(space, repaired):
            return repaired, False
        order = [d.name for d in space.structure for _ in range(int(point[d.name]))]
        order = [order[i] for i in rng.permutation(len(order))]
        steps = self._first_fit(space, point, order)
        repaired = _lowered(point, order[:steps])
        blocked: set[str] = set()
        for name in reversed(order[:steps]):
            if name in blocked:
                continue
            repaired[name] += 1
            if not self._fits(space, repaired):
                repaired[name] -= 1
                blocked.add(name)
        return repaired, True

    def _first_fit(self, space: SearchSpace, point: Point, order: list[str]) -> int:
        """The least number of steps of `order` after which the point fits."""
        if not self._fits(space, _lowered(point, order)):
            self.check_feasible(space)
            raise AutopeftError("budget: the smallest hybrid of the space does not fit")
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self._fits(space, _lowered(point, order[:middle])):
                high = middle
            else:
                low = middle + 1
        return low

    def _fits(self, space: SearchSpace, point: Point) -> bool:
        return self.fits(space.hybrid(point), space.shape)


@dataclass(frozen=True)
class Share:
    """What uniform samples of a space cost: `within` is the share that fits, `costs` (least, median, most) by name."""

    within: float
    costs: Mapping[str, tuple[int, int, int]]


def share_within(space: SearchSpace, budget: Budget, samples: int, rng: Generator) -> Share:
    """Share of uniform samples within the budget, and the range of every limited cost (parameters when none is)."""
    names = list(budget.limits) or ["trainable_params"]
    drawn = [space.hybrid(space.random_point(rng)) for _ in range(samples)]
    seen = [costs_of(hybrid, space.shape, budget.length, names) for hybrid in drawn]
    fitting = sum(all(costs[name] <= limit for name, limit in budget.limits.items()) for costs in seen)
    ranked = {name: sorted(costs[name] for costs in seen) for name in names}
    return Share(fitting / samples, {name: (v[0], v[len(v) // 2], v[-1]) for name, v in ranked.items()})


def _lowered(point: Point, names: Iterable[str]) -> dict[str, int | float]:
    lowered = dict(point)
    for name in names:
        lowered[name] -= 1
    return lowered


def _atoms(space: SearchSpace) -> Iterator[Hybrid]:
    """The least non-empty hybrids: every other one has one of these within it."""
    base: dict[str, int | float] = {d.name: 0 for d in space.dimensions}
    sizes = [{}, *({d.name: 1} for d in space.structure if d.kind == "size")]
    bits = [{}, *({d.name: 1} for d in space.structure if d.kind == "bit")]
    for size in sizes:
        for bit in bits:
            hybrid = space.hybrid(base | size | bit)
            if not hybrid.is_empty:
                yield hybrid


def _amount(value: Any, reference: int, where: str, of_bytes: bool) -> int:
    # Before its text is made: Python writes out no number of more than 4,300 digits.
    told = isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) <= _MOST)
    match = None if not told else _AMOUNT.fullmatch(str(value).strip())
    if isinstance(value, bool) or match is None or (match[3] and (not of_bytes or match[2] == "%")):
        raise AutopeftError(f"{where}: expected a number, '1.2M' or a share like '0.5%' (given: {shown(value)})")
    number, unit = Decimal(match[1]), match[2]
    amount = int(number * reference / 100 if unit == "%" else number * _FACTORS[unit])
    if amount < 1:
        raise AutopeftError(f"{where}: must be at least 1; write a share as '0.5%' (given: {shown(value)})")
    if amount > _MOST:
        raise AutopeftError(f"{where}: must be at most {_MOST:,} (given: {shown(value)})")
    return amount
