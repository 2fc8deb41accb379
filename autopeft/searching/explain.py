"""What a search has learned: what its score depends on, and what the front is made of.

Shapes: N observations, D dimensions, L layers, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.budget import Budget
from autopeft.dimensions import Continuous
from autopeft.errors import AutopeftError
from autopeft.searching.front import ParetoFront
from autopeft.searching.importance import forest_quality, forest_shares, sobol_shares
from autopeft.searching.known_cost.observations import Observations
from autopeft.searching.known_cost.points import Points
from autopeft.space import SearchSpace

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: With fewer finished evaluations there is nothing to say, with fewer than `ENOUGH` a warning.
LEAST, ENOUGH = 5, 20
#: The models are fitted to so many observations at most, drawn at random: both get slow beyond.
MOST = 400
#: An R2 under this is called poor.
_POOR = 0.3
#: How near to an end of a range, on a scale of 1, is at it.
_END = 0.01


@dataclass(frozen=True)
class Share:
    """What a part of a candidate explains of the score's variance, each from 0 to 1.

    By the surrogate, over points like those evaluated: `first` alone, `total` with all interactions with other parts
    (Sobol' indices). By the random forest: `forest` alone, over the whole space (functional ANOVA; of a layer or a
    block the sum over its dimensions).
    """

    first: float
    total: float
    forest: float


@dataclass(frozen=True)
class Quality:
    """How well each model predicts scores that it has not seen: R2 (1 is perfect, 0 no better than the mean) and
    Spearman's rank correlation; the surrogate by leaving one out, the forest out of bag.

    The surrogate's hyper-parameters have seen all scores, so that its figures flatter: on pure noise R2 was up to 0.9
    with 8 evaluations, 0.3 with 20 and 0.2 with 40.
    """

    surrogate_r2: float
    surrogate_rank: float
    forest_r2: float


@dataclass(frozen=True)
class FrontUse:
    """Of the front's `members`: how many have a block in a layer, `counts` [L, B], and its mean size in those that
    have it, `sizes` [L, B] (0 where none has).
    """

    members: int
    counts: np.ndarray
    sizes: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of the members [L, B]."""
        return self.counts / max(self.members, 1)


@dataclass(frozen=True)
class Explanation:
    """Shares of the variance of `score` by layer, by block, by training hyper-parameter, and by (layer, block) where
    sizes are per layer; what the front is made of. `methods` is each block's method; `warnings` say what to mind.
    """

    score: str
    observations: int
    stopped: int
    quality: Quality
    layers: Mapping[int, Share]
    blocks: Mapping[str, Share]
    training: Mapping[str, Share]
    cells: Mapping[tuple[int, str], Share]
    methods: Mapping[str, str]
    front: FrontUse
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        use = zip(self.front.counts, self.front.shares, self.front.sizes, strict=True)
        return {
            "score": self.score,
            "observations": self.observations,
            "stopped": self.stopped,
            "quality": asdict(self.quality),
            "warnings": list(self.warnings),
            "methods": dict(self.methods),
            "layers": [{"layer": layer, **asdict(share)} for layer, share in self.layers.items()],
            "blocks": [{"block": block, **asdict(share)} for block, share in self.blocks.items()],
            "training": [{"name": name, **asdict(share)} for name, share in self.training.items()],
            "cells": [{"layer": at, "block": block, **asdict(share)} for (at, block), share in self.cells.items()],
            "front": {
                "members": self.front.members,
                "cells": [
                    {"layer": layer, "block": block, "count": int(c), "share": float(s), "mean_size": float(size)}
                    for layer, rows in enumerate(use)
                    for block, c, s, size in zip(self.methods, *rows, strict=True)
                ],
            },
        }

    def plot(self) -> Figure:
        """Heat maps and bars as an interactive figure."""
        from autopeft.searching.explain_plots import explain_figure

        return explain_figure(self)

    def still(self, path: Path) -> None:
        """The same as a PNG file; no browser is needed."""
        from autopeft.searching.explain_plots import save_explanation

        save_explanation(self, path)


def explain(front: ParetoFront, space: SearchSpace, budget: Budget, epochs: int = 1) -> Explanation:
    """What the evaluations of `front` say of its score, and what its points are made of.

    Finished evaluations stand with their score, stopped ones with where their curves point to, as for the sampler
    `known_cost`; `epochs` is a whole training. Whatever sampler proposed them. `AutopeftError` when there are too few,
    or nothing to tell apart. The same evaluations give the same figures.
    """
    # What a search has widened is of the space that it saw.
    space = space.ranging(e.candidate.training for e in front.evaluations)
    points = Points(space, budget)
    if not points.dimensions:
        raise AutopeftError("explain: the search space has nothing to choose")
    seen = Observations.of_evaluations(front.evaluations, points, front.score, epochs)
    done = int(seen.done.sum())
    if done < LEAST:
        ended = front.verdict.finished is not False
        more = "search on with more trials" if ended else "this search has not ended: go on with it"
        raise AutopeftError(f"explain: needs at least {LEAST} finished candidates, there are {done}; {more}")
    if not np.ptp(seen.scores):
        raise AutopeftError(f"explain: all evaluations have the same {front.score.metric}: there is nothing to explain")
    part = _part(len(seen.scores))
    layers, blocks, training, cells = _parts(points)
    groups = {*layers.values(), *blocks.values(), *training.values(), *cells.values()}
    quality, shares = _fitted(points, seen, part, sorted(groups))
    return Explanation(
        score=front.score.metric,
        observations=len(part),
        stopped=int((~seen.done[part]).sum()),
        quality=quality,
        layers={name: shares[columns] for name, columns in layers.items()},
        blocks={name: shares[columns] for name, columns in blocks.items()},
        training={name: shares[columns] for name, columns in training.items()},
        cells={name: shares[columns] for name, columns in cells.items()},
        methods=space.methods,
        front=front_use(front, space),
        warnings=(*_warnings(done, len(seen.scores), len(part), quality), *_at_ends(front, points)),
    )


def front_use(front: ParetoFront, space: SearchSpace) -> FrontUse:
    """Which blocks stand in which layers of the front's points."""
    found = [space.block_sizes(e.candidate.hybrid) for e in front.points]
    shape = (len(found), space.shape.layers, len(space.methods))
    sizes = np.array([[list(layer.values()) for layer in sizes] for sizes in found], dtype=float).reshape(shape)
    counts = (sizes > 0).sum(axis=0)
    return FrontUse(len(found), counts, sizes.sum(axis=0) / np.maximum(counts, 1))


#: Columns of a row.
_Columns = tuple[int, ...]


def _parts(
    points: Points,
) -> tuple[dict[int, _Columns], dict[str, _Columns], dict[str, _Columns], dict[tuple[int, str], _Columns]]:
    """Columns by layer, by block, by training hyper-parameter, and by (layer, block).

    Where all layers share sizes, a layer has its bit and a block its size.
    """
    layers: dict[int, _Columns] = {}
    blocks: dict[str, _Columns] = {}
    training: dict[str, _Columns] = {}
    cells: dict[tuple[int, str], _Columns] = {}
    for column, d in enumerate(points.dimensions):
        if d.kind == "training":
            training[d.name] = (column,)
            continue
        if d.layer is not None:
            layers[d.layer] = (*layers.get(d.layer, ()), column)
        if d.block is not None:
            blocks[d.block] = (*blocks.get(d.block, ()), column)
        if d.layer is not None and d.block is not None:
            cells[d.layer, d.block] = (column,)
    return layers, blocks, training, cells


def _part(count: int) -> np.ndarray:
    """Which observations are used: all, or `MOST` of them."""
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST, replace=False))


def _fitted(
    points: Points, seen: Observations, part: np.ndarray, groups: Sequence[_Columns]
) -> tuple[Quality, dict[_Columns, Share]]:
    """How good the two models are, and the share of each group of columns."""
    from scipy.stats import spearmanr

    from autopeft.searching.known_cost.surrogate import Data, Surrogate

    rows, scores, done = seen.rows[part], seen.scores[part], seen.done[part]
    surrogate = Surrogate(Data(points.features(rows), scores, seen.variances[part], points.shape))
    predicted = surrogate.leave_one_out()[done]
    # A search may have left the surrogate nothing but one value.
    rank = spearmanr(predicted, scores[done]).statistic if np.ptp(predicted) and np.ptp(scores[done]) else 0.0
    unit = points.unit(rows)
    quality = Quality(r_squared(scores[done], predicted), float(rank), forest_quality(unit, scores))
    first, total = sobol_shares(lambda x: surrogate.posterior(points.features(x))[0], rows, groups)
    single = forest_shares(points.dimensions, unit, scores)
    forest = [min(1.0, float(single[list(group)].sum())) for group in groups]
    shares = [Share(*map(float, three)) for three in zip(first, total, forest, strict=True)]
    return quality, dict(zip(groups, shares, strict=True))


def r_squared(scores: np.ndarray, predicted: np.ndarray) -> float:
    """The part of the scores' variance [N] that predictions [N] account for; negative when they are worse than the
    mean, 0 where all scores are equal.
    """
    spread = float(((scores - scores.mean()) ** 2).sum())
    return 1.0 - float(((scores - predicted) ** 2).sum()) / spread if spread else 0.0


def _warnings(done: int, count: int, used: int, quality: Quality) -> tuple[str, ...]:
    found = []
    if done < ENOUGH:
        found.append(f"only {done} finished evaluations: these shares, and R2 itself, are hints at most")
    if quality.surrogate_r2 < _POOR:
        found.append(
            f"the surrogate predicts scores that it has not seen poorly (R2 {quality.surrogate_r2:.2f}): "
            "do not build on its shares"
        )
    if quality.forest_r2 < _POOR:
        found.append(
            f"the forest predicts scores that it has not seen poorly (R2 {quality.forest_r2:.2f}): "
            "do not build on its shares"
        )
    if used < count:
        found.append(f"fitted to {used} of {count} evaluations, drawn at random")
    return tuple(found)


def _at_ends(front: ParetoFront, points: Points) -> Iterator[str]:
    """Training hyper-parameters that most of the front has at an end of their range."""
    known = [points.space.point_of(e.candidate) for e in front.points]
    rows = np.array([points.row(point) for point in known if point is not None])
    # There may be none within the limits.
    unit = points.unit(rows.reshape(-1, len(points.dimensions)))
    for dimension, column in zip(points.dimensions, unit.T, strict=True):
        if not isinstance(dimension, Continuous):
            continue
        for end, value in ((0.0, dimension.low), (1.0, dimension.high)):
            there = int((np.abs(column - end) < _END).sum())
            if there > max(1, len(column) / 2):
                yield (
                    f"{there} of the front's {len(column)} members have {dimension.name} at the end of its range "
                    f"({value:g}): there may be better ones beyond"
                )
