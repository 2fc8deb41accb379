"""Which training hyper-parameters the front has at an end of their range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autopeft.dimensions import Continuous
from autopeft.searching.front import ParetoFront

#: The part of a range, on its scale, that is its end.
END = 0.05
#: The least number of members that say something.
_MEMBERS = 2


@dataclass(frozen=True)
class AtEnd:
    """`count` of the `members` that have the hyper-parameter `name` have it at the `end` of its range."""

    name: str
    end: float
    count: int
    members: int


def at_ends(front: ParetoFront, ranges: Iterable[Continuous]) -> Iterator[AtEnd]:
    """Where most members of the front, and two at least, are in the last 5% of a range, on its scale.

    Only trainings from the beginning count: a short healing says nothing of the rate for others. A range that the
    search has widened is as wide as what was drawn from it; what lies outside of what it may become is not of it.
    """
    for written in ranges:
        name = written.name
        drawn = [e.candidate.training[name] for e in front.evaluations if not e.origin and name in e.candidate.training]
        own = [e.candidate.training[name] for e in front.points if not e.origin and name in e.candidate.training]
        own = [value for value in own if written.contains(value)]
        if not own:
            continue
        dimension = written.ranging(min(drawn), max(drawn))
        parts = dimension.parts(np.array(own))
        for end, count in ((dimension.low, (parts <= END).sum()), (dimension.high, (parts >= 1 - END).sum())):
            if count >= _MEMBERS and 2 * count > len(own):
                yield AtEnd(name, end, int(count), len(own))
