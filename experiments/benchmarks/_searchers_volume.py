"""How good a search's front is: the hypervolume of its true scores, as a share of the best known one's.

Two figures. `log`: the cost on a logarithmic scale from the smallest hybrid to the budget, the score from what the head
alone reaches; every decade of cost counts the same, and only what is learnt counts. `linear`: the convention of
`ParetoFront.reference`, corner at the budget and the score 0; one point that is good at a tenth of the budget has nine
tenths of it, so it hardly tells searchers apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from _searchers_points import Points
from _surfaces import COST, Surface

from autopeft.searching.dominance import hypervolume, non_dominated

SCALES = ("log", "linear")
#: The noise-free search for the best known front: rounds, and points a round.
ROUNDS, POPULATION = 150, 400


def losses(costs: Any, scores: Any) -> np.ndarray:
    """Rows [N, 2] of (cost, -score)."""
    return np.stack([np.asarray(costs, dtype=float), -np.asarray(scores, dtype=float)], axis=1)


def front_of(costs: Any, scores: Any) -> np.ndarray:
    """The non-dominated rows of `losses`, cheapest first; a chunk at a time, as there may be many."""
    rows = losses(costs, scores)
    front = np.empty((0, 2))
    for i in range(0, len(rows), 1_000):
        front = np.unique(np.vstack([front, rows[i : i + 1_000]]), axis=0)
        front = front[non_dominated(front)]
    return front


def volume(rows: np.ndarray, on: Surface, scale: str) -> float:
    """The hypervolume of rows (cost, -score) up to the corner of the scale."""
    limit = float(on.budget.limits[COST])
    if scale == "linear":
        return hypervolume(rows, [limit, 0.0])
    # The empty hybrid costs nothing: it is taken for the smallest one.
    scaled = np.stack([np.log10(np.maximum(rows[:, 0], _least(on))), rows[:, 1]], axis=1)
    return hypervolume(scaled, [np.log10(limit), -on.floor])


@lru_cache(maxsize=8)
def _least(on: Surface) -> int:
    return on.budget.smallest(on.space)[COST]


def curve(run: Mapping[str, Any], on: Surface, best: np.ndarray, scale: str) -> np.ndarray:
    """The share of the best front's hypervolume after each trial [N].

    The front is what the search can see: non-dominated in the observed scores of whole trainings. Its members count
    with their true scores, so that a lucky seed is worth nothing.
    """
    observed, true = losses(run["cost"], run["observed"]), losses(run["cost"], run["true"])
    whole, members, last, shares = volume(best, on, scale), np.empty(0, dtype=int), 0.0, []
    for i, stopped in enumerate(run["stopped"]):
        if not stopped:
            before, members = members, np.append(members, i)
            members = members[non_dominated(observed[members])]
            if not np.array_equal(before, members):
                last = volume(true[members], on, scale) / whole
        shares.append(last)
    return np.array(shares)


def samples(run: Mapping[str, Any], on: Surface) -> np.ndarray:
    """Training examples seen after each trial [N]: epochs trained x examples an epoch."""
    return np.cumsum(run["epochs"]) * on.train


def false_kills(run: Mapping[str, Any]) -> tuple[int, int]:
    """(How many were stopped though, trained to their end, they would have been on the search's final front; the size
    of that front). The front is that of all trials, as if nothing had been stopped, in the scores that it would have
    observed.
    """
    kept, stopped = non_dominated(losses(run["cost"], run["final"])), np.array(run["stopped"])
    return int((kept & stopped).sum()), int(kept.sum())


def noise_free(on: Surface, seed: int = 0, rounds: int = ROUNDS, population: int = POPULATION) -> np.ndarray:
    """A front from a long search without noise: random points, the surface's own ones, then neighbours of the front."""
    points, rng = Points(on.space, on.budget), np.random.default_rng(seed)
    pool = points.random(10 * population, rng)
    if on.points:
        pool = np.vstack([pool, points.features.table(on.points)])
    front, values = np.empty((0, pool.shape[1])), np.empty((0, 2))
    for _ in range(rounds):
        both = np.vstack([front, pool])
        values = np.vstack([values, losses(points.features.params(pool), on.mean_of(pool)[:, -1])])
        # Equal ones do not dominate each other, and would multiply.
        first = np.unique(values, axis=0, return_index=True)[1]
        kept = first[non_dominated(values[first])]
        front, values = both[kept], values[kept]
        pool = points.neighbours(front, max(1, population // len(front)), rng)
    return front_of(values[:, 0], -values[:, 1])


def best_known(on: Surface, runs: Sequence[Mapping[str, Any]], found: np.ndarray) -> np.ndarray:
    """The front of the true scores of all that any search has asked for, and of a noise-free search `found`."""
    costs = np.concatenate([found[:, 0], *(np.asarray(run["cost"], dtype=float) for run in runs)])
    scores = np.concatenate([-found[:, 1], *(np.asarray(run["true"], dtype=float) for run in runs)])
    return front_of(costs, scores)
