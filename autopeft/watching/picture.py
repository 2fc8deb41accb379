"""What a search has found so far, as it is shown: points, best and knee, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from autopeft.candidate import Evaluation
from autopeft.dimensions import Continuous
from autopeft.errors import printable
from autopeft.searching.confirming.records import Remembered
from autopeft.searching.confirming.verdict import judged
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective
from autopeft.searching.range_ends import at_ends

#: Points that a picture has at most: those on the front, and the last others.
_MOST = 2_000


@dataclass(frozen=True)
class Terms:
    """What is searched, as far as a picture needs it: `ranges` are those of training hyper-parameters."""

    name: str
    trials: int | None
    epochs: int
    objectives: tuple[Objective, ...]
    limits: Mapping[str, int]
    ranges: tuple[Continuous, ...]


@dataclass(frozen=True)
class Point:
    """A candidate that was trained to its end: its number is that of the tables, from 0 on.

    `score` is a mean over seeds, where there are several; of an `unconfirmed` one what is to be expected, as others
    have several.
    """

    number: int
    key: str
    cost: float
    score: float
    on_front: bool
    words: str
    unconfirmed: bool = False


@dataclass(frozen=True)
class Picture:
    """`cost` names the axis below (its number, where no cost is an objective), `score` the one beside it.

    `example`: the best as plain data (`Candidate.to_json`), for who writes one of their own.
    """

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
    less_is_better: bool = False
    example: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, terms: Terms, evaluations: Sequence[Evaluation], remembered: Remembered | None = None) -> Self:
        """Of evaluations in the order of their numbers; `remembered`: what the study knows of other seeds."""
        front = ParetoFront(evaluations, terms.objectives, terms.limits)
        if remembered is not None:
            front = judged(front, remembered)
        on, left, cost = {e.number for e in front.points}, {e.number for e in front.unconfirmed}, front.cost

        def point(e: Evaluation) -> Point:
            at = e.number if cost is None else e.metrics[cost.metric]
            score, words = front.value_of(e, front.score), printable(e.candidate.hybrid.summary())
            return Point(e.number, e.key, float(at), float(score), e.number in on, words, e.number in left)

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
            said=tuple(
                f"{at.name}: {at.count} of the front's {at.members} members are at the end of its range ({at.end:g})"
                for at in at_ends(front, terms.ranges)
            ),
            failures=tuple(f"#{e.number} {printable(e.error or '')}" for e in evaluations if e.status == "failed")[-3:],
            less_is_better=front.score.direction == "min",
            example=front.best().candidate.to_json() if found else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
