"""How long a search still takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import median

from autopeft.candidate import Evaluation, Job
from autopeft.searching.study import Proposal
from autopeft.watching.going import Going
from autopeft.watching.outlook import Ahead, Outlook
from autopeft.watching.pace import Pace, makespan

#: About which share of a search's candidates is on its front, and is measured on test.
_ON_FRONT = 0.25
#: So many packs tell what is lost between two of them.
_LOST = 5


class Clock:
    """Reckons the seconds that are left of a search of `trials` trainings on `workers`, or of a `limit` of seconds.

    What was expected of each training is set against what those have taken that have ended, and what the epochs of
    those have taken that run; what runs counts as far as it is. Between packs a worker waits for the next one, as long
    as it has waited so far. What workers need to start counts for nothing: the clock starts with the training itself.
    """

    def __init__(
        self,
        trials: int | None,
        workers: int,
        epochs: int,
        limit: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trials, self._workers, self._epochs, self._limit, self._now = trials, workers, epochs, limit, now
        self._begun, self._ahead = now(), Ahead(epochs)
        self._count, self._ended, self._seconds = 0, 0, 0.0
        self._packs, self._pack_of = dict[int, Going](), dict[int, int]()
        #: Packs that are their workers' first, and what all packs took.
        self._first, self._took = set[int](), dict[int, float]()
        self._training: float | None = None
        # What is known of the pace, and what packs had that ended and are not counted in it yet.
        self._known, self._members = Pace(), defaultdict[int, list[tuple[Job, int | None]]](list)
        #: When each pack was begun, when the last one ended, and what was lost beside trainings by packs after those.
        self._sent = dict[int, float]()
        self._ending: float | None = None
        self._lost: list[float] = []
        self._make: Callable[[], Outlook] | None = None

    @cached_property
    def outlook(self) -> Outlook:
        """What is expected, worked out when it is first asked for."""
        assert self._make is not None, "asked for once training has begun"
        return self._make()

    def expecting(self, make: Callable[[], Outlook]) -> None:
        """What is expected can be known; training begins."""
        self._make, self._begun = make, self._now()

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """So many were there before."""
        self._count += len(finished)
        for evaluation in finished:
            self._ahead.begun(evaluation.job)
            self._seconds += evaluation.seconds

    def started(self, proposal: Proposal) -> None:
        """A training is sent to a worker."""
        self._count += 1
        self._ahead.begun(proposal.job)
        pack = self._pack_of[proposal.number] = proposal.pack if proposal.pack >= 0 else proposal.number
        if pack not in self._packs:
            known = self._ending is not None
            self._packs[pack] = Going({}, proposal.job.epochs or self._epochs, self._now(), known)
            if len(self._first) < self._workers:
                self._first.add(pack)
            if self._ending is not None:
                # Not a worker's first one: since it was asked for, as another had ended.
                self._sent[pack], self._ending = self._ending, None
        self._packs[pack].jobs[proposal.number] = proposal.job

    def epoch(self, number: int, epoch: int) -> None:
        """A member of a pack has ended an epoch."""
        going = self._packs.get(self._pack_of.get(number, -1))
        if going is not None and epoch > going.done:
            going.ended(epoch, self._now())

    def finished(self, evaluation: Evaluation) -> None:
        """A training has ended."""
        number, pack = evaluation.number, self._pack_of.pop(evaluation.number, -1)
        self._ended, self._seconds = self._ended + 1, self._seconds + evaluation.seconds
        self._took[pack] = self._took.get(pack, 0.0) + evaluation.seconds
        self._members[pack].append((evaluation.job, evaluation.fidelity))
        self._ahead.ended(evaluation)
        going = self._packs.get(pack)
        if going is not None:
            going.jobs.pop(number, None)
            if not going.jobs:
                del self._packs[pack]
                self._end(pack)

    def _end(self, pack: int) -> None:
        now = self._ending = self._now()
        if self._training is None:
            # What came before the training of the first pack that has ended was the worker's start.
            self._training = now - self._took[pack]
        if pack in self._sent:
            self._lost.append(max(0.0, now - self._sent.pop(pack) - self._took[pack]))

    def left(self) -> float | None:
        """Seconds until the last training ends; None where nobody knows."""
        end = None if self._limit is None else max(0.0, self._begun + self._limit - self._now())
        if self._trials is None or self._make is None:
            return end
        pace, lost, count = self._pace(), self._losses(), max(0, self._trials - self._count)
        unbegun = (pace * seconds + lost for seconds in self._ahead.left(self.outlook, count))
        left = makespan([self._rest(going, pace) for going in self._packs.values()], unbegun, self._workers)
        return left if end is None else min(left, end)

    @property
    def later(self) -> float:
        """Seconds at most of what comes after."""
        if self._make is None:
            return 0.0
        outlook, left = self.outlook, self.left() or 0.0
        searched = self._seconds / self._workers + left
        reported = (_ON_FRONT + outlook.confirming) * max(self._trials or 0, self._count)
        once = outlook.alone + reported * outlook.testing / self._workers
        # Workers are started anew for other seeds, and to measure on test.
        starts = ((outlook.confirming > 0) + (outlook.testing > 0)) * ((self._training or self._begun) - self._begun)
        return outlook.confirming * searched + self._pace() * once + starts

    def _pace(self) -> float:
        """Seconds of a worker for an expected second."""
        for pack in [pack for pack in self._members if pack not in self._packs]:
            members = self._members.pop(pack)
            filling = max(self.outlook.filling(job) for job, _ in members) if pack in self._first else 0.0
            beside = self.outlook.beside_in(members, self._epochs)
            self._known = self._known.after(self._took[pack], filling + self.outlook.of(members), beside)
        known = self._known
        for going in self._packs.values():
            # What runs tells of it too: its epochs, and one that takes longer than it should.
            seconds, epochs = going.measured(self._now(), known.factor * self._whole(going) / going.epochs)
            share, members = epochs / going.epochs, [(job, None) for job in going.jobs.values()]
            beside = self.outlook.beside_in(members, self._epochs)
            known = known.after(seconds, share * self._whole(going), share * beside)
        return known.factor

    def _losses(self) -> float:
        """Seconds of workers beside each training, in packs as large as so far."""
        if not self._lost:
            return 0.0
        # In the middle of the last ones: the first may hold the start of another worker.
        return median(self._lost[-_LOST:]) * len(self._took) / max(1, self._ended)

    def _rest(self, going: Going, pace: float) -> float:
        """Seconds until a pack has ended: an epoch takes as long as the one before, or as its pack lets expect."""
        length, begun, ending = going.length or pace * self._whole(going) / going.epochs, going.at, float(going.epochs)
        if going.stops:
            ending = going.done + (going.epochs - going.done) * self._ahead.share(self.outlook)
        if not going.done and not going.known:
            # Before its first epoch has ended a worker may have been starting.
            begun = self._now() if self._training is None else max(begun, self._training)
        inside = min(0.95, (self._now() - begun) / length) if length else 0.0
        return length * max(0.0, ending - going.done - inside)

    def _whole(self, going: Going) -> float:
        return self.outlook.of((job, None) for job in going.jobs.values())
