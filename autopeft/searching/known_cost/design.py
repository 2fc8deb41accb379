"""Where a search starts: the configurations that people use, and points at equal distances of the logarithm of cost.

Uniform points all cost much, so that a start of them says nothing of the cheap end (see `BudgetedSampler`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autopeft.budget import Budget
from autopeft.dimensions import Continuous, Ordinal
from autopeft.space import SearchSpace

#: Sizes in all layers, by method, with the share of the budget that each is scaled into: the larger ones of the
#: literature get more of it. Hu et al. 2022 (r = 8 on q and v), Pfeiffer et al. 2021 (reduction 16), He et al. 2022
#: (parallel adapter of 512, MAM), Li and Liang 2021 (30 virtual tokens), Mao et al. 2022 (UniPELT).
MANUAL: Mapping[str, tuple[float, Mapping[str, int]]] = {
    "LoRA q, v": (1 / 4, {"lora": 8}),
    "Pfeiffer": (1 / 2, {"sequential": 48}),
    "MAM": (1, {"prefix": 30, "parallel": 512}),
    "prefix": (1 / 8, {"prefix": 30}),
    "parallel": (1 / 2, {"parallel": 512}),
    "UniPELT": (1, {"prefix": 10, "lora": 8, "sequential": 48}),
}
_RATE = "learning_rate"
_STEP = (math.sqrt(5) - 1) / 2
#: The least part of the budget that is looked at, where hybrids are smaller still.
LEAST_SHARE = 1e-3
#: 2 ** this is larger than any size.
_HALVINGS = 16
#: The smallest budgets have room for few methods only.
_TRIES = 32


def start(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[dict[str, int | float]]:
    """`count` points within the budget: half of them manual configurations, then the spread ones."""
    rng = np.random.default_rng([seed, 2])
    points = manual(space, budget)[: count // 2]
    points += spread(space, budget, count - len(points), rng)
    for number, point in enumerate(points):
        _set_training(space, point, number, rng)
    return points


def manual(space: SearchSpace, budget: Budget) -> list[dict[str, int | float]]:
    """The manual configurations whose methods the space has, without repetitions.

    All sizes of one go down together until it fits its share of the budget; where their least ones do not fit in all
    layers, the lowest layers lose theirs first.
    """
    found: list[dict[str, int | float]] = []
    for share, sizes in MANUAL.values():
        blocks = {block: sizes[method] for block, method in space.methods.items() if method in sizes}
        if {space.methods[block] for block in blocks} != set(sizes):
            continue
        part = budget.tightened(space, share) if share < 1 else budget
        point = _scaled(space, part, blocks) or _scaled(space, budget, blocks)
        if point is not None and point not in found:
            found.append(point)
    return found


def spread(
    space: SearchSpace, budget: Budget, count: int, rng: np.random.Generator, first: int = 0
) -> list[dict[str, int | float]]:
    """Random points in some layers and of some methods, repaired into log-spaced shares of the budget.

    Shares follow the golden ratio from the number `first` on, so that every stretch is spread over the axis too.
    """
    # No share is least where something costs nothing, as LoRA does that is merged.
    least = math.log(min(1.0, max(LEAST_SHARE, 1.01 * budget.least_share(space))))
    points = []
    for number in range(first, first + count):
        part = budget.tightened(space, math.exp(least * (1 - (number + 1) * _STEP % 1.0)))
        points.append(_within(space, part, rng))
    return points


def _within(space: SearchSpace, budget: Budget, rng: np.random.Generator) -> dict[str, int | float]:
    """A random point within the budget; where much is lowered, all of it may go, and another one is drawn."""
    for _ in range(_TRIES):
        point, _ = budget.repair(space, _sparse(space, rng), rng)
        if not space.hybrid(point).is_empty:
            break
    return point


def _scaled(space: SearchSpace, budget: Budget, blocks: Mapping[str, int]) -> dict[str, int | float] | None:
    """The largest point of these proportions within the budget; None when there is none but the empty one."""
    layers = range(space.shape.layers)
    tries = [(halving, 0) for halving in range(_HALVINGS)] + [(_HALVINGS, lowest) for lowest in layers[1:]]
    for halving, lowest in tries:
        point: dict[str, int | float] = {d.name: 0 for d in space.dimensions}
        for d in space.structure:
            if d.kind == "bit":
                point[d.name] = int((d.layer or 0) >= lowest)
            elif d.block is not None and d.block in blocks and (d.layer is None or d.layer >= lowest):
                point[d.name] = _level(d, blocks[d.block] / 2**halving)
        if budget.fits(space.hybrid(point), space.shape):
            return point
    return None


def _level(dimension: Ordinal, size: float) -> int:
    """The level nearest to a size on a logarithmic scale, but not the absent one."""
    distances = [abs(math.log(max(size, 0.5) / v)) if v else math.inf for v in dimension.values]
    return int(np.argmin(distances))


def _sparse(space: SearchSpace, rng: np.random.Generator) -> dict[str, int | float]:
    """A uniform point without some of the layers and some of the methods."""
    layers = _some(range(space.shape.layers), rng)
    blocks = _some(sorted(space.methods), rng)
    point = space.random_point(rng)
    for d in space.structure:
        if d.kind == "bit":
            point[d.name] = int(d.layer in layers)
        elif d.block not in blocks or (d.layer is not None and d.layer not in layers):
            point[d.name] = 0
    return point


def _some(values: Sequence[int] | Sequence[str], rng: np.random.Generator) -> set[int | str]:
    """A random subset, its size uniform from 1."""
    order = rng.permutation(len(values))[: rng.integers(1, len(values) + 1)]
    return {values[i] for i in order}


def _set_training(space: SearchSpace, point: dict[str, int | float], number: int, rng: np.random.Generator) -> None:
    """Training hyper-parameters spread evenly over their ranges, those of each dimension in another order.

    Learning rates are of the upper half of a range: those of the lower one leave most hybrids where they began.
    """
    for i, d in enumerate(d for d in space.dimensions if d.kind == "training"):
        at = (0.5 + (number + i) * _STEP + rng.uniform(-0.05, 0.05)) % 1.0
        at = (1 + at) / 2 if d.name == _RATE and isinstance(d, Continuous) else at
        if isinstance(d, Ordinal):
            point[d.name] = min(int(at * len(d.values)), len(d.values) - 1)
        else:
            point[d.name] = d.at(at)
