"""What a stopping rule sees of a search: the courses of its evaluations, and of what runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from autopeft.candidate import Evaluation
from autopeft.engine.company import unjudged
from autopeft.hybrid import Hybrid
from autopeft.searching.objective import Objective
from autopeft.searching.stopping import Course, StoppingPlugin


class Courses:
    """Keeps the courses of a search, and asks the rule.

    Failed candidates are left out, and courses with a value that is not a number: they are neither judged nor measured
    against. So are trainings that begin elsewhere or take longer than others (see `Job.is_whole`), and those whose
    methods say that their scores mean nothing as yet (`Method.judged_from`). What is there to be cut is worth more than
    its own score: of the learning rates of such a hybrid one is always left.
    """

    def __init__(
        self, rule: StoppingPlugin, objectives: Sequence[Objective], epochs: int, evaluations: Iterable[Evaluation] = ()
    ) -> None:
        self._rule, self._epochs = rule, epochs
        self._costs = [o for o in objectives if o.is_cost]
        self._scores = [o for o in objectives if not o.is_cost]
        self._courses: dict[int, Course] = {}
        self._hybrids: dict[int, Hybrid | None] = {}
        self._to_cut: set[int] = set()
        self._unjudged: dict[int, int] = {}
        for evaluation in evaluations:
            self.end(evaluation)

    @property
    def may_stop(self) -> bool:
        """Whether it can ever come to stopping anything."""
        return self._rule.stops and self._epochs > 1

    def begin(
        self, number: int, costs: Mapping[str, float], hybrid: Hybrid | None = None, to_cut: bool = False
    ) -> None:
        """A candidate of these costs is about to be trained from its beginning."""
        self._unjudged[number], self._hybrids[number] = unjudged(hybrid, self._epochs) if hybrid else 0, hybrid
        if to_cut:
            self._to_cut.add(number)
        self._courses[number] = Course(number, tuple(o.loss(costs[o.metric]) for o in self._costs), (), (), "running")

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """It has got through an epoch; after one that it had behind it already, its course begins anew from there."""
        if number not in self._courses:
            return
        course, before = self._courses[number], int(metrics["epoch"]) - 1
        self._courses[number] = _further(replace(course, status="running"), before, self._point(metrics))

    def end(self, evaluation: Evaluation) -> None:
        """It is evaluated."""
        number, status = evaluation.number, evaluation.status
        if status == "failed" or not evaluation.job.is_whole:
            self._courses.pop(number, None)
            return
        self.begin(number, evaluation.metrics, evaluation.candidate.hybrid)
        for before, metrics in enumerate(evaluation.curve):
            self._courses[number] = _further(self._courses[number], before, self._point(metrics))
        self._courses[number] = replace(self._courses[number], status=status)

    def stop(self, numbers: Iterable[int]) -> set[int]:
        """Which of these running candidates, that have just got through an epoch, shall be stopped."""
        if not self.may_stop:
            return set()
        # A pack's candidates are all after the same epoch.
        at = {number: self._courses[number].epoch for number in numbers if number in self._courses}
        meant = (c for c in self._courses.values() if self._unjudged[c.number] < max(at.values(), default=1))
        known = [c for c in meant if c.scores and _is_finite(c)]
        found = self._rule.stop(known, self._epochs) & {n for n, epoch in at.items() if self._unjudged[n] < epoch}
        found -= self._last_to_cut(found)
        for number in found:
            self._courses[number] = replace(self._courses[number], status="stopped")
        return found

    def _last_to_cut(self, found: set[int]) -> set[int]:
        """Of each hybrid that is to be cut, and would be stopped at all learning rates, the best."""
        alive = {
            self._hybrids[c.number] for c in self._courses.values() if c.status != "stopped" and c.number not in found
        }
        best: dict[Hybrid | None, int] = {}
        for number in sorted(found & self._to_cut, key=lambda n: (self._courses[n].scores[-1], -n)):
            best[self._hybrids[number]] = number
        return {number for hybrid, number in best.items() if hybrid not in alive}

    def _point(self, metrics: Mapping[str, float]) -> tuple[tuple[float, ...], float]:
        """The scores and the loss after an epoch."""
        scores = tuple(-o.loss(metrics.get(o.metric, math.nan)) for o in self._scores)
        return scores, metrics.get("loss", math.nan)


def _further(course: Course, before: int, point: tuple[tuple[float, ...], float]) -> Course:
    """The course with a point after its first `before` ones."""
    scores, loss = point
    return replace(course, scores=(*course.scores[:before], scores), losses=(*course.losses[:before], loss))


def _is_finite(course: Course) -> bool:
    return all(map(math.isfinite, [*course.losses, *(score for scores in course.scores for score in scores)]))
