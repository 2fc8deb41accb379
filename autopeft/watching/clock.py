"""How long a search still takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from autopeft.candidate import ENQUEUED, LARGE, SAMPLER, Evaluation, Job
from autopeft.searching.study import Proposal

#: Phases of a search, by what its trainings are.
CONTROLS, HEALINGS = "controls", "healings"
#: Of so many of the sampler's trainings the usual length counts beside what those took that have ended.
_USUAL = 4


@dataclass(frozen=True)
class Outlook:
    """What is expected before a search trains: seconds of one worker.

    `planned`: how many trainings each phase before the sampler has, and the seconds of one; `usual`: the seconds of one
    of the sampler's; `expected`: those of a job of so many epochs (None: its own). `later`: seconds of the whole search
    that come after its last training, at most.
    """

    planned: Mapping[str, tuple[int, float]]
    usual: float
    expected: Callable[[Job, int | None], float]
    later: float = 0.0


@dataclass
class _Going:
    """A pack in training: its members, when it began or an epoch ended last, when the one before did, how many did."""

    jobs: dict[int, Job]
    epochs: int
    at: float
    before: float | None = None
    done: int = 0


class Clock:
    """Reckons the seconds that are left of a search of `trials` trainings on `workers`, or of a `limit` of seconds.

    What was expected of each training is set against what those have taken that have ended; what runs counts as far as
    it is. Between packs a worker waits for the next one, as long as it has waited so far. What workers need to start
    counts for nothing: the clock starts with the training itself.
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
        self._begun = now()
        self._phases: Counter[str] = Counter()
        self._count, self._ended = 0, list[tuple[Job, int]]()
        self._own: list[tuple[Job, int]] = []
        self._packs: dict[int, _Going] = {}
        self._pack_of: dict[int, int] = {}
        self._training: float | None = None
        self._took = dict[int, float]()
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
        self._phases.update(phase_of(evaluation.job) for evaluation in finished)

    def started(self, proposal: Proposal) -> None:
        """A training is sent to a worker."""
        self._count += 1
        self._phases[phase_of(proposal.job)] += 1
        pack = self._pack_of[proposal.number] = proposal.pack if proposal.pack >= 0 else proposal.number
        if pack not in self._packs:
            self._packs[pack] = _Going({}, proposal.job.epochs or self._epochs, self._now())
            if self._ending is not None:
                # Not a worker's first one: since it was asked for, as another had ended.
                self._sent[pack], self._ending = self._ending, None
        going = self._packs[pack]
        going.jobs[proposal.number] = proposal.job

    def epoch(self, number: int, epoch: int) -> None:
        """A member of a pack has ended an epoch."""
        going = self._packs.get(self._pack_of.get(number, -1))
        if going is not None and epoch > going.done:
            going.before, going.at, going.done = (going.at if going.done else None), self._now(), epoch

    def finished(self, evaluation: Evaluation) -> None:
        """A training has ended."""
        number, pack = evaluation.number, self._pack_of.pop(evaluation.number, -1)
        self._took[pack] = self._took.get(pack, 0.0) + evaluation.seconds
        going = self._packs.get(pack)
        if going is not None:
            going.jobs.pop(number, None)
            if not going.jobs:
                del self._packs[pack]
                self._end(pack)
        self._ended.append((evaluation.job, evaluation.fidelity))
        if evaluation.status != "failed" and phase_of(evaluation.job) == SAMPLER:
            self._own.append(self._ended[-1])

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
        count = max(0, self._trials - self._count)
        left = (self._pace() * (self._unbegun(count) + self._running()) + self._losses(count)) / self._workers
        return left if end is None else min(left, end)

    @property
    def later(self) -> float:
        """Seconds at most of what comes after."""
        return 0.0 if self._make is None else self.outlook.later

    def _pace(self) -> float:
        """Seconds of a worker for an expected second: as expected, until trainings have outweighed that."""
        usual = max(self.outlook.usual, 1e-9)
        return (sum(self._took.values()) + usual) / (self._sum(self._ended) + usual)

    def _losses(self, count: int) -> float:
        """Seconds of workers beside the trainings of so many more candidates, in packs as large as so far."""
        if not self._lost:
            return 0.0
        each = sum(self._lost) / len(self._lost)
        return each * count * len(self._took) / max(1, len(self._ended))

    def _running(self) -> float:
        """Expected seconds that are left of what runs."""
        return sum(self._whole(going) * (1 - self._part(going)) for going in self._packs.values())

    def _part(self, going: _Going) -> float:
        """How far a pack is: its epochs, and of the one that runs what the one before lets expect."""
        begun, length = going.at, None if going.before is None else going.at - going.before
        if length is None and self._training is not None:
            # Before its first epoch has ended a worker may have been starting.
            begun = max(begun, self._training)
            length = self._pace() * self._whole(going) / going.epochs
        inside = min(0.95, (self._now() - begun) / length) if length else 0.0
        return min(1.0, (going.done + (inside if going.done < going.epochs else 0.0)) / going.epochs)

    def _unbegun(self, left: int) -> float:
        """Expected seconds of so many trainings that have not begun."""
        seconds = 0.0
        # Where the sampler is asked already, what comes before it has ended.
        for phase, (count, each) in () if self._phases[SAMPLER] else self.outlook.planned.items():
            there = min(left, max(0, count - self._phases[phase]))
            left, seconds = left - there, seconds + there * each
        usual = (_USUAL * self.outlook.usual + self._sum(self._own)) / (_USUAL + len(self._own))
        return seconds + left * usual

    def _sum(self, trained: Sequence[tuple[Job, int]]) -> float:
        return sum(self.outlook.expected(job, epochs) for job, epochs in trained)

    def _whole(self, going: _Going) -> float:
        return sum(self.outlook.expected(job, None) for job in going.jobs.values())


def phase_of(job: Job) -> str:
    """What a training is in its search."""
    if job.origin is not None:
        return HEALINGS
    if job.role.startswith("control"):
        return CONTROLS
    # What is enqueued may come before all else, so it says nothing of how far the others are.
    return job.role if job.role in (LARGE, ENQUEUED) else SAMPLER
