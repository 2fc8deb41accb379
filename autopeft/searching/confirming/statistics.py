"""How sure one can be of scores that were measured with a few seeds.

Shapes: N candidates, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from autopeft.searching.dominance import non_dominated

#: Draws of all true means, and the seed of them.
_DRAWS, _SEED = 2000, 0
#: Degrees of freedom that the standard deviation of all candidates counts as beside a candidate's own.
_SHARED = 4
#: In intervals at most a third of those that all candidates have together: it is not known better than that.
_PART = 1 / 3


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
    squares, free = _within(groups)
    pooled = sum(squares) / sum(free) if sum(free) >= 2 else prior**2
    variances = [(_SHARED * pooled + s) / (_SHARED + f) for s, f in zip(squares, free, strict=True)]
    return np.array([math.sqrt(v / max(1, len(g))) for v, g in zip(variances, groups, strict=True)])


def _within(groups: Sequence[Collection[float]]) -> tuple[list[float], list[int]]:
    """Of each group the sum of squares around its mean, and the degrees of freedom of that."""
    squares = [float(np.var(list(group))) * len(group) if len(group) else 0.0 for group in groups]
    return squares, [max(0, len(group) - 1) for group in groups]


def prior_deviation(score: float, rows: int) -> float:
    """The standard deviation that a score is given before any other seed is known.

    Of a share (0 to 1) that of a share of `rows` validation examples; else a twentieth of the score.
    """
    if 0 <= score <= 1 and rows > 0:
        return math.sqrt(max(score * (1 - score), 0.01) / rows)
    return 0.05 * abs(score)


def difference(
    mine: Mapping[int, float], theirs: Mapping[int, float], groups: Sequence[Collection[float]] = ()
) -> tuple[float, float | None, float | None]:
    """Mean difference of two candidates' values by seed, and the bounds of its 95% interval (None of one seed).

    With at least two seeds in common the differences are paired: mean +- t sd / sqrt(n). Else Welch's interval of two
    means. It is over seeds, on these test examples: others would add to it. `groups` are the values of all candidates,
    these two among them. Two or three seeds hardly tell a deviation, and may happen to be equal: variances are shrunk
    to that of all, which adds to the degrees of freedom (Smyth 2004, "Linear models and empirical Bayes methods",
    section 4; their number is not estimated, but four at most).
    """
    from scipy.special import stdtrit

    squares, known = _within(groups)
    shared = min(_SHARED, sum(known) * _PART)
    pooled = sum(squares) / sum(known) if shared else 0.0

    def variance(values: Collection[float], of: int = 1) -> tuple[float, float]:
        own, free = float(np.var(list(values))) * len(values), len(values) - 1
        return (shared * of * pooled + own) / (shared + free), shared + free

    both = sorted(mine.keys() & theirs.keys())
    if len(both) >= 2:
        paired = [mine[seed] - theirs[seed] for seed in both]
        # Two candidates' variances add up in a difference.
        mean, (found, free) = float(np.mean(paired)), variance(paired, 2)
        error = math.sqrt(found / len(both))
    else:
        a, b = list(mine.values()), list(theirs.values())
        mean = float(np.mean(a) - np.mean(b))
        if min(len(a), len(b)) < 2:
            return mean, None, None
        each = [(found / len(x), free) for x in (a, b) for found, free in [variance(x)]]
        error = math.sqrt(sum(part for part, _ in each))
        below = sum(part**2 / free for part, free in each)
        free = error**4 / below if below else 1.0
    half = float(stdtrit(free, 0.975)) * error
    return mean, mean - half, mean + half
