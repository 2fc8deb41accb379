"""What a search has learned: what its score depends on, and what the front is made of.

Shapes: N observations, D dimensions, L layers, B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopeft.budget import Budget
from autopeft.errors import AutopeftError
from autopeft.searching.advice import advice
from autopeft.searching.explanation import Explanation, FrontUse, Quality, Share
from autopeft.searching.front import ParetoFront
from autopeft.searching.importance import forest_quality, forest_shares, sobol_shares
from autopeft.searching.known_cost.observations import Observations
from autopeft.searching.known_cost.points import Points
from autopeft.space import SearchSpace

#: With fewer finished evaluations there is nothing to say, with fewer than `ENOUGH` a warning.
LEAST, ENOUGH = 5, 20
#: The models are fitted to so many observations at most, drawn at random: both get slow beyond.
MOST = 400
#: An R2 under this is called poor.
_POOR = 0.3


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
        warnings=_warnings(done, len(seen.scores), len(part), quality),
        advice=advice(front, space),
        evaluations=len(front.evaluations),
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
