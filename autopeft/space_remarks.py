"""What a user should know of a space and its limits before a search: objectives and limits that say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from autopeft.budget import Budget, costs_of
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace

#: Points that are drawn, and the share of them that a limit must keep out to say something.
_DRAWN, _SHARE = 200, 0.01


def on_objectives(space: SearchSpace, objectives: Sequence[Objective], length: int, others: bool) -> Iterator[str]:
    """A sentence for each cost among the objectives that is the same for all candidates of the space.

    `others`: the search trains what is not of the space too.
    """
    # Costs never fall when a size grows, so the two ends tell.
    least, most = (costs_of(end, space.shape, length) for end in (space.smallest, space.largest))
    varying = ", ".join(name for name in least if least[name] < most[name])
    for name in (o.metric for o in objectives if o.is_cost):
        if least[name] == most[name]:
            but = ", whatever controls cost" if others else ""
            yield (
                f"objective {name} is {least[name]:,} for every candidate of this space{but}, so none is cheaper than "
                f"another; take one that varies ({varying}), or leave it out"
            )


def on_limits(space: SearchSpace, budget: Budget) -> Iterator[str]:
    """A sentence for each limit that keeps out next to nothing of the space."""
    most = budget.costs(space.largest, space.shape)
    for name, limit in budget.limits.items():
        if most[name] <= limit:
            yield (
                f"budget.{name} <= {limit:,} limits nothing: the largest hybrid of the space has {most[name]:,}; lower "
                "it, or give the space larger sizes"
            )
        elif most[name] <= 2 * limit and (above := _above(space, budget, name, limit)) <= _SHARE * _DRAWN:
            yield (
                f"budget.{name} <= {limit:,} limits next to nothing: {above} of {_DRAWN} uniform points of the space "
                f"have more (the largest {most[name]:,}); lower it, or give the space larger sizes"
            )


def _above(space: SearchSpace, budget: Budget, name: str, limit: int) -> int:
    rng = np.random.default_rng(0)
    drawn = (space.hybrid(space.random_point(rng)) for _ in range(_DRAWN))
    return sum(costs_of(hybrid, space.shape, budget.length, [name])[name] > limit for hybrid in drawn)
