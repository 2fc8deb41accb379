"""Stop what will hardly get on the front: the rule for a score and a cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from autopeft.searching.extrapolation import Extrapolation
from autopeft.searching.stopping._base import Course, StoppingPlugin


class ParetoStopping(StoppingPlugin):
    """Stops a candidate when its final score will most likely not be above that of one that costs no more.

    Candidates that were trained to their end tell how a score and a loss after an epoch foretell the final score, and
    with how much noise (`Extrapolation`). A candidate is stopped when one of them, of no greater cost, dominates it
    with at least the given confidence; a cheaper candidate is thus never measured against a dearer one. With several
    scores it has to be beaten in all of them by one and the same; that each chance of not being so adds up to the
    chance of staying is a bound (Boole's), and errs towards training on.
    """

    name: ClassVar[str] = "pareto"
    description: ClassVar[str] = "what a finished candidate of no greater cost dominates, with confidence (default)"

    confidence: float = Field(0.995, gt=0.5, lt=1, description="that what is stopped would have been dominated")
    startup: int = Field(
        10, ge=1, le=1_000_000, description="candidates that must be trained to their end before any is stopped"
    )
    rungs: tuple[int, ...] = Field(
        (), max_length=1_000, description="after which epochs to look; none given: after each"
    )

    def stop(self, courses: Sequence[Course], epochs: int) -> set[int]:
        """Those that are dominated with confidence."""
        # Sums depend on the order of what is added up.
        ended = (c for c in courses if c.status == "done" and c.epoch == epochs)
        finished = sorted(ended, key=lambda c: c.number)
        asked = [c for c in courses if c.status == "running" and self._is_rung(c.epoch, epochs)]
        if len(finished) < self.startup or not asked:
            return set()
        fits = [
            Extrapolation.fit([_points(c, k) for c in finished], epochs) for k in range(len(finished[0].scores[-1]))
        ]
        return {c.number for c in asked if self._is_hopeless(c, [f for f in finished if f.no_dearer(c)], fits)}

    def _is_rung(self, epoch: int, epochs: int) -> bool:
        return 0 < epoch < epochs and (not self.rungs or epoch in self.rungs)

    def _is_hopeless(self, course: Course, rivals: Sequence[Course], fits: Sequence[Extrapolation]) -> bool:
        # Who leads at this epoch is not stopped, whatever the regression makes of it.
        if not any(rival.no_worse(course, course.epoch) for rival in rivals):
            return False
        ends = [fit.final(course.epoch, _points(course, k)[-1]) for k, fit in enumerate(fits)]
        chance = min(
            sum(_chance(score, *end) for score, end in zip(rival.scores[-1], ends, strict=True)) for rival in rivals
        )
        return chance <= 1 - self.confidence


def _points(course: Course, k: int) -> list[tuple[float, float]]:
    """The course's k-th score and the loss, one pair an epoch."""
    return [(scores[k], loss) for scores, loss in zip(course.scores, course.losses, strict=True)]


def _chance(least: float, mean: float, sd: float) -> float:
    """The probability that a normal variable is above `least`."""
    from scipy.special import ndtr

    if sd == 0:
        return float(mean > least)
    return float(ndtr((mean - least) / sd))
