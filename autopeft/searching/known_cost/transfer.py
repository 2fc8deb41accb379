"""What another search's scores say of this one: the mean that its surrogate gives, as far as it proves right here.

Shapes: N points.
"""

from __future__ import annotations

import numpy as np

from autopeft.searching.known_cost.points import Points
from autopeft.searching.known_cost.surrogate import Data, Surrogate, Trend, spread_of
from autopeft.searching.problem import Prior

#: So many observations here weigh as much as the doubt whether the other task says anything.
_DOUBT = 4


def learned_elsewhere(prior: Prior, points: Points) -> Trend:
    """The other search's surrogate, standardised over its own candidates."""
    features = points.features(np.array([points.row(point) for point in prior.points]))
    scores = np.asarray(prior.scores, dtype=float)
    surrogate = Surrogate(Data(features, scores, np.zeros(len(scores)), points.shape))
    center, scale = scores.mean(), spread_of(scores)
    return lambda at: (surrogate.posterior(at)[0] - center) / scale


def trend_here(elsewhere: Trend, features: np.ndarray, scores: np.ndarray) -> Trend:
    """The part of the other task's surrogate that explains this one's `scores` [N]: a slope by least squares, drawn
    towards 0 while there are few, and never below it.
    """
    known = elsewhere(features)
    deviation = known - known.mean()
    varies = known.std() > 1e-9 * (1 + abs(known.mean()))
    slope = max(0.0, float(deviation @ scores) / float(deviation @ deviation)) if varies else 0.0
    slope *= len(scores) / (len(scores) + _DOUBT)
    return lambda at: slope * elsewhere(at)
