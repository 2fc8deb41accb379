"""The point of largest expected improvement: local search over the discrete space.

Shapes: N points, D dimensions, S searches that climb at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autopeft.searching.known_cost.near import Known
from autopeft.searching.known_cost.points import Points, moved_training

#: What is to be made large: [N, D] -> [N].
Gain = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Effort:
    """How many random points are looked at, how many searches climb, how far, over how many neighbours a step."""

    pool: int = 512
    searches: int = 5
    rounds: int = 8
    neighbours: int = 96


def maximise(
    gain: Gain, points: Points, known: np.ndarray, good: np.ndarray, rng: np.random.Generator, effort: Effort
) -> np.ndarray | None:
    """The best new row [D] within the budget; None when all that were found are known, or repeat what is.

    Searches start at the best of: members of the front (`good` [F, D]) and what lies near them, other `known` rows
    [N, D] changed at random, and random rows brought within the budget. Each takes the best of its neighbours until
    none is better.
    """
    seen = Known(points, known)
    pool = np.concatenate([good, _near(points, good, effort.pool // 2, rng), _random(points, effort.pool // 2, rng)])
    pool = pool[points.fit(pool)]
    values = gain(pool)
    # A known row is a start, but no answer.
    best = _best_new(pool, values, seen)
    current, height = _distinct(pool, values, effort.searches)
    for _ in range(effort.rounds):
        near = _neighbours(points, current, effort.neighbours, rng)
        owner = np.repeat(np.arange(len(current)), effort.neighbours)
        within = points.fit(near)
        near, owner = near[within], owner[within]
        if not len(near):
            break
        values = gain(near)
        best = _better(best, _best_new(near, values, seen))
        climbed = False
        for search in range(len(current)):
            own = np.flatnonzero(owner == search)
            if len(own) and values[own].max() > height[search]:
                top = own[values[own].argmax()]
                current[search], height[search], climbed = near[top], values[top], True
        if not climbed:
            break
    return None if best is None else best[1]


_Found = tuple[float, np.ndarray]


def _best_new(rows: np.ndarray, values: np.ndarray, seen: Known) -> _Found | None:
    for i in np.argsort(-values, kind="stable"):
        if not seen.has(rows[i]):
            return float(values[i]), rows[i].copy()
    return None


def _better(first: _Found | None, second: _Found | None) -> _Found | None:
    if first is None or second is None:
        return first or second
    return second if second[0] > first[0] else first


def _distinct(rows: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` rows, each once."""
    chosen: dict[bytes, int] = {}
    for i in np.argsort(-values, kind="stable"):
        if len(chosen) == count:
            break
        chosen.setdefault(rows[i].tobytes(), int(i))
    index = list(chosen.values())
    return rows[index].copy(), values[index].copy()


def _near(points: Points, rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows with one to a few changes."""
    if not len(rows):
        return np.empty((0, len(points.dimensions)))
    near = rows[rng.integers(len(rows), size=count)]
    for _ in range(3):
        moved = _moved(points, near, rng)
        keep = rng.random(count) < 0.5
        near = np.where(keep[:, None], near, moved)
    return near


def _neighbours(points: Points, rows: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """`each` random neighbours of every row: [S * each, D]."""
    return _moved(points, np.repeat(rows, each, axis=0), rng)


def _moved(points: Points, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows after one move each: a level up or down, a method taken away or put in, a swap of two dimensions with
    equal levels (a method moves to another layer or is replaced by another one), or another training rate.
    """
    moved, n = rows.copy(), np.arange(len(rows))
    structure, training = np.flatnonzero(points.structure), np.flatnonzero(~points.structure)
    kind = rng.random(len(rows))
    at = structure[rng.integers(len(structure), size=len(rows))] if len(structure) else np.zeros(len(rows), int)
    if len(structure):
        level, top = rows[n, at], points.levels[at] - 1
        step = level + rng.choice([-1, 1], size=len(rows))
        drawn = rng.integers(0, top + 1)
        value = np.select([kind < 0.4, kind < 0.5], [step, np.where(level > 0, 0, drawn)], drawn)
        moved[n, at] = np.clip(value, 0, top)
        other = structure[rng.integers(len(structure), size=len(rows))]
        swap = (kind >= 0.6) & (kind < 0.8) & (points.levels[at] == points.levels[other])
        moved[n[swap], at[swap]], moved[n[swap], other[swap]] = rows[n[swap], other[swap]], rows[n[swap], at[swap]]
    if len(training):
        again = (kind >= 0.8) | (len(structure) == 0)
        _move_training(points, moved, rows, n[again], training, rng)
    return moved


def _move_training(
    points: Points,
    moved: np.ndarray,
    rows: np.ndarray,
    which: np.ndarray,
    training: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Small and large changes of one training hyper-parameter in the rows `which`; their structure as it was."""
    moved[which] = rows[which]
    columns = training[rng.integers(len(training), size=len(which))]
    for column in training:
        chosen = which[columns == column]
        moved[chosen, column] = moved_training(points.dimensions[column], moved[chosen, column], rng)


def _random(points: Points, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows in some layers and methods, lowered level by level to log-uniform parts of the budget."""
    rows = np.zeros((count, len(points.dimensions)))
    for i in np.flatnonzero(points.structure):
        rows[:, i] = rng.integers(0, points.levels[i], size=count)
    absent = rng.random(count)
    rows[:, points.structure] *= rng.random((count, int(points.structure.sum()))) > absent[:, None]
    points.random_training(rows, rng)
    shares = np.exp(rng.uniform(np.log(0.01), 0.0, size=count))
    return points.lowered(rows, shares, rng)
