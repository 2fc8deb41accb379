"""Which hybrids stand in the table: a fixed list, of which every beginning covers the cost axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from autopeft.budget import Budget
from autopeft.models import find_model
from autopeft.space import SearchSpace

MODEL, SPACE, BUDGET, MAX_LENGTH = "minilm", "hybrid", {"trainable_params": "1%"}, 128
#: The golden ratio's steps fill an interval evenly, however many there are.
_STEP = (math.sqrt(5) - 1) / 2
#: The smallest part of the budget that is drawn: one method of size 1 in one layer.
_LEAST = 0.004

Point = dict[str, int | float]


def space() -> SearchSpace:
    return SearchSpace.load(SPACE, find_model(MODEL).shape())


def budget(box: SearchSpace) -> Budget:
    return Budget.resolve(BUDGET, box.shape, MAX_LENGTH)


def points(count: int) -> list[Point]:
    """The first `count` points of the list; all their hybrids are distinct and not empty."""
    return list(islice(_points(), count))


def _points() -> Iterator[Point]:
    box, rng, seen = space(), np.random.default_rng(0), set()
    whole = budget(box)
    for number in range(1_000_000):
        share = math.exp(math.log(_LEAST) * (number * _STEP % 1.0))
        point = _drawn(box, whole.tightened(box, share), rng)
        hybrid = box.hybrid(point)
        if not hybrid.is_empty and hybrid not in seen:
            seen.add(hybrid)
            yield point


def _drawn(box: SearchSpace, part: Budget, rng: np.random.Generator) -> Point:
    """Sizes in some of the layers and for some of the methods, repaired into a part of the budget.

    Uniform points adapt every layer by every method, which is not where fronts are. Learning rates lean to the upper
    end of their range: in a training this short the lower half hardly leaves the start.
    """
    layers = {f"L{i:02}" for i in rng.permutation(box.shape.layers)[: rng.integers(1, box.shape.layers + 1)]}
    methods = sorted({d.name.split(".")[1] for d in box.structure})
    chosen = {methods[i] for i in rng.permutation(len(methods))[: rng.integers(1, len(methods) + 1)]}
    point = box.random_point(rng)
    for dimension in box.structure:
        layer, method, _ = dimension.name.split(".")
        if layer not in layers or method not in chosen:
            point[dimension.name] = 0
    rate = next(d for d in box.dimensions if d.name == "learning_rate")
    low, high = rate.low, rate.high
    point["learning_rate"] = high * (low / high) ** (rng.random() ** 2)
    return part.repair(box, point, rng)[0]
