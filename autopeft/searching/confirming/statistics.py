"""How sure one can be of scores that were measured with a few seeds.

Shapes: N candidates, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autopeft.searching.dominance import non_dominated

#: Draws of all true means, and the seed of them.
_DRAWS, _SEED = 2000, 0
#: Degrees of freedom that the standard deviation of all candidates counts as beside a candidate's own.
_SHARED = 4


def p_front(losses: np.ndarray, errors: np.ndarray, draws: int = _DRAWS) -> np.ndarray:
    """The probability [N] of being non-dominated in truth, from means [N, M] and their standard errors [N, M].

    By the normal approximation of the means, taken as independent: the share of `draws` of all of them in which a
    candidate is non-dominated. A column that is known exactly (a cost) has errors of 0.
    """
    if not len(losses):
        return np.zeros(0)
    rng, count = np.random.default_rng(_SEED), np.zeros(len(losses))
    for _ in range(draws):
        count += non_dominated(losses + errors * rng.standard_normal(losses.shape))
    return count / draws


def standard_errors(groups: Sequence[Sequence[float]], prior: float) -> np.ndarray:
    """The standard error [N] of the mean of each group.

    A candidate's variance is its own, shrunk to that of all (with the weight of 4 degrees of freedom): two or three
    seeds say little. `prior` is the standard deviation where not even all together have two degrees of freedom.
    """
    squares = [float(np.var(group)) * len(group) if len(group) else 0.0 for group in groups]
    free = [max(0, len(group) - 1) for group in groups]
    pooled = sum(squares) / sum(free) if sum(free) >= 2 else prior**2
    variances = [(_SHARED * pooled + s) / (_SHARED + f) for s, f in zip(squares, free, strict=True)]
    return np.array([math.sqrt(v / max(1, len(g))) for v, g in zip(variances, groups, strict=True)])


def prior_deviation(score: float, rows: int) -> float:
    """The standard deviation that a score is given before any other seed is known.

    Of a share (0 to 1) that of a share of `rows` validation examples; else a twentieth of the score.
    """
    if 0 <= score <= 1 and rows > 0:
        return math.sqrt(max(score * (1 - score), 0.01) / rows)
    return 0.05 * abs(score)


def difference(mine: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[float, float | None, float | None]:
    """Mean difference of two candidates' values by seed, and the bounds of its 95% interval (None of one seed).

    With at least two seeds in common the differences are paired: mean +- t(n - 1) sd / sqrt(n). Else Welch's interval
    of two means. It is over seeds, on these test examples: others would add to it.
    """
    from scipy.special import stdtrit

    both = sorted(mine.keys() & theirs.keys())
    if len(both) >= 2:
        paired = np.array([mine[seed] - theirs[seed] for seed in both])
        mean, error, free = float(paired.mean()), float(paired.std(ddof=1)) / math.sqrt(len(both)), len(both) - 1.0
    else:
        a, b = np.array(list(mine.values())), np.array(list(theirs.values()))
        mean = float(a.mean() - b.mean())
        if min(len(a), len(b)) < 2:
            return mean, None, None
        parts = [float(x.var(ddof=1)) / len(x) for x in (a, b)]
        error = math.sqrt(sum(parts))
        below = sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True))
        free = error**4 / below if below else 1.0
    half = float(stdtrit(free, 0.975)) * error
    return mean, mean - half, mean + half
