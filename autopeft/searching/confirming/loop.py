"""The loop that a runner drives when a front is confirmed: packs of one seed out, trainings in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autopeft.candidate import Evaluation, Job, failed
from autopeft.searching.confirming.plan import Plan
from autopeft.searching.confirming.records import keep_pack, runs_in
from autopeft.searching.confirming.values import Run
from autopeft.searching.objective import Objective
from autopeft.searching.study import Proposal, Study


class ConfirmLoop:
    """Has the methods of a `SearchLoop` that a runner calls.

    Invariant: what `done` has returned from is in the study's storage. What comes next follows from that, so a kill
    costs the packs that were running, and they are handed out again. `seconds` of training are the limit: a training
    that would go over it is not begun. `said` hears, after each pack, how many trainings have ended, how many there
    will be in all, and the seconds of training that are left, by those of the search and of what has ended.
    """

    def __init__(
        self,
        study: Study,
        plan: Plan,
        seconds: float,
        said: Callable[[int, int, float], None] = lambda done, total, seconds: None,
        begin: Callable[[int, Job], None] = lambda number, job: None,
    ) -> None:
        self._study, self._plan, self._limit, self._said, self._begin = study, plan, seconds, said, begin
        self._objectives: Sequence[Objective] = [o for o in study.objectives if not o.is_cost]
        #: By ticket, since one candidate may run with two seeds on two workers.
        self._running: dict[int, tuple[int, Job]] = {}
        self._ticket, self._ended, self._waited = 0, False, False

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, with nothing running; false after an interrupt."""
        return self._ended and not self._running

    def goes_on(self) -> bool:
        """Whether a runner that has ended shall run it again: it had nothing to begin while something ran.

        A healing waits for its parent, and a worker that gets no pack ends.
        """
        again = self._waited and not self._running and not self._ended
        self._waited = False
        return again

    def next_pack(self, size: int, workers: int = 1) -> list[Proposal]:
        """Up to `size` trainings of one seed; none when no more can be started before a running one has ended."""
        runs = runs_in(self._study.remembered)
        running = [(number, job.seed or 0) for number, job in self._running.values()]
        wanted = self._plan.wanted(runs, running)
        left = self._limit - sum(run.seconds for each in runs.values() for run in each)
        left -= sum(self._plan.seconds(number) for number, _ in running)
        pack: list[Proposal] = []
        room = min(size, max(1, math.ceil(len(wanted) / workers)))
        for number, job in wanted:
            expected = self._plan.seconds(number)
            if len(pack) == room or expected > left or (pack and job.seed != pack[0].job.seed):
                continue
            left -= expected
            self._begin(number, job)
            pack.append(Proposal(self._ticket, job, repaired=False))
            self._running[self._ticket] = (number, job)
            self._ticket += 1
        self._waited |= not pack and bool(self._running)
        self._ended |= not pack and not self._running
        return pack

    def epoch(self, pack: Mapping[int, Mapping[str, float]]) -> set[int]:
        """Nothing is stopped: all seeds count alike."""
        return set()

    def done(self, evaluations: Mapping[int, Evaluation]) -> None:
        """Store the trainings of a pack, by ticket: all or none."""
        told = [(self._running[ticket][0], self._run(evaluation)) for ticket, evaluation in evaluations.items()]
        keep_pack(self._study, told)
        for ticket in evaluations:
            del self._running[ticket]
        self.say()

    def say(self) -> None:
        """Say how far it is."""
        runs = runs_in(self._study.remembered)
        done = sum(map(len, runs.values()))
        left = self._limit - sum(run.seconds for each in runs.values() for run in each)
        count, seconds = self._plan.outlook(runs, left)
        self._said(done, done + count, self._pace(runs) * seconds)

    def _pace(self, runs: Mapping[int, Sequence[Run]]) -> float:
        """What trainings have taken over what those of the search took, which the plan reckons with."""
        took = sum(run.seconds for each in runs.values() for run in each)
        planned = sum(self._plan.seconds(number) * len(each) for number, each in runs.items())
        return took / planned if took and planned else 1.0

    def failed(self, number: int, reason: str) -> None:
        """Store a training whose worker died."""
        self.done({number: failed(self._running[number][1], reason)})

    def _run(self, evaluation: Evaluation) -> Run:
        """As failed when a score is missing or no number."""
        run = Run.of(evaluation)
        wrong = [o.metric for o in self._objectives if not math.isfinite(run.metrics.get(o.metric, math.nan))]
        if run.status == "done" and wrong:
            return replace(run, status="failed", error=f"{wrong[0]} is {run.metrics.get(wrong[0])}")
        return run
