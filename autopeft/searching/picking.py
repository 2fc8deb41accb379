"""Which candidates may be picked under limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError


def within(pool: Sequence[Evaluation], limits: Mapping[str, float]) -> list[Evaluation]:
    """Those of the pool that meet the limits; `AutopeftError` says what the least is when none does."""
    if not pool:
        raise AutopeftError("front: empty, there is no finished evaluation within the budget")
    for name, limit in limits.items():
        known = [e.metrics[name] for e in pool if name in e.metrics]
        if not known:
            raise AutopeftError(f"front: the evaluations have no metric '{name}' to be limited")
        if min(known) > limit:
            raise AutopeftError(f"front: nothing has {name} <= {limit:,}; the least is {min(known):,}")
    chosen = [e for e in pool if all(e.metrics.get(n, math.inf) <= limit for n, limit in limits.items())]
    if not chosen:
        raise AutopeftError(f"front: nothing meets all of {dict(limits)}")
    return chosen
