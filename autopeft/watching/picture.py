"""What a search has found so far, as it is shown: points, best and knee, counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from autopeft.candidate import Evaluation
from autopeft.errors import printable
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective

#: The part of a range, on its scale, that is its end, and the least number of the front's members that say something.
_END, _SAYS = 0.05, 2
#: Points that a picture has at most: those on the front, and the last others.
_MOST = 2_000


@dataclass(frozen=True)
class Terms:
    """What is searched, as far as a picture needs it: `ranges` are the space's `training` as it is written."""

    name: str
    trials: int | None
    epochs: int
    objectives: tuple[Objective, ...]
    limits: Mapping[str, int]
    ranges: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A candidate that was trained to its end: its number is that of the tables, from 0 on."""

    number: int
    key: str
    cost: float
    score: float
    on_front: bool
    words: str


@dataclass(frozen=True)
class Picture:
    """`cost` names the axis below (its number, where no cost is an objective), `score` the one beside it."""

    name: str
    trials: int | None
    counts: Mapping[str, int]
    score: str
    cost: str
    points: tuple[Point, ...]
    best: Point | None
    knee: Point | None
    said: tuple[str, ...]
    failures: tuple[str, ...]

    @classmethod
    def of(cls, terms: Terms, evaluations: Sequence[Evaluation]) -> Self:
        """Of evaluations in the order of their numbers."""
        front = ParetoFront(evaluations, terms.objectives, terms.limits)
        on, cost = {e.number for e in front.points}, front.cost

        def point(e: Evaluation) -> Point:
            at = e.number if cost is None else e.metrics[cost.metric]
            score = e.metrics[front.score.metric]
            return Point(
                e.number, e.key, float(at), float(score), e.number in on, printable(e.candidate.hybrid.summary())
            )

        others = [e for e in front.done if e.number not in on]
        shown = sorted([*front.points, *others[-_MOST:]], key=lambda e: e.number)
        found = bool(front.points)
        return cls(
            name=terms.name,
            trials=terms.trials,
            counts=dict(Counter(e.status for e in evaluations)),
            score=front.score.metric,
            cost="number" if cost is None else cost.metric,
            points=tuple(map(point, shown)),
            best=point(front.best()) if found else None,
            knee=point(front.knee()) if found else None,
            said=tuple(at_ends(front, terms.ranges)),
            failures=tuple(f"#{e.number} {printable(e.error or '')}" for e in evaluations if e.status == "failed")[-3:],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def at_ends(front: ParetoFront, ranges: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each training hyper-parameter that half of the front has at an end of its range.

    A range that the search has widened is as wide as what was drawn from it.
    """
    for name, written in ranges.items():
        if not isinstance(written, Mapping) or not {"low", "high"} <= written.keys():
            continue
        drawn = [
            e.candidate.training[name] for e in front.evaluations if e.origin is None and name in e.candidate.training
        ]
        own = [e.candidate.training[name] for e in front.points if name in e.candidate.training]
        low, high = min([written["low"], *drawn]), max([written["high"], *drawn])
        scale = math.log if written.get("log") else float
        width = scale(high) - scale(low)
        for end in (low, high):
            count = sum(abs(scale(value) - scale(end)) <= _END * width for value in own)
            if count >= max(_SAYS, len(own) / 2):
                yield f"{name}: {count} of the front's {len(own)} members are at the end of its range ({end:g})"
