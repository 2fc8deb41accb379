"""What a search is expected to train, and what of it has not begun."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopeft.candidate import ENQUEUED, LARGE, SAMPLER, Evaluation, Job

#: Phases of a search, by what its trainings are.
CONTROLS, HEALINGS = "controls", "healings"
#: Of so many of the sampler's trainings what is usual counts beside those that have ended; of these by so much less
#: with each that ended after it, as it learns what to propose, and no more than so many.
_USUAL, _FADES, _LATE = 2.0, 0.9, 40
#: The same of the share of their epochs.
_SHARED = 4.0


def _nothing(job: Job) -> float:
    return 0.0


@dataclass(frozen=True)
class Outlook:
    """What is expected before a search trains: seconds of one worker.

    `planned`: those of each training of the phases before the sampler, in their order; `usual`: those of one of the
    sampler's; `expected`: those of a job of so many epochs (None: its own), of which `beside` those of a whole training
    that are not of its products; `filling`: those to compute what lies below a job's lowest adapted layer, once a
    worker. Of their epochs the sampler's trainings are trained for the `share`, where some are stopped. After the last
    training come other seeds, for at most the share `confirming` of all seconds of training, and `alone` seconds in
    which one worker trains; what is reported takes `testing` seconds each.
    """

    planned: Mapping[str, Sequence[float]]
    usual: float
    expected: Callable[[Job, int | None], float]
    beside: float = 0.0
    filling: Callable[[Job], float] = _nothing
    share: float = 1.0
    confirming: float = 0.0
    alone: float = 0.0
    testing: float = 0.0

    def of(self, trained: Iterable[tuple[Job, int | None]]) -> float:
        """The seconds of these trainings, each with its epochs."""
        return sum(self.expected(job, epochs) for job, epochs in trained)

    def beside_in(self, trained: Iterable[tuple[Job, int | None]], whole: int) -> float:
        """Of these seconds those that are not of products; a whole training has so many epochs."""
        return self.beside * sum(job.epochs or whole if of is None else of for job, of in trained) / whole


class Ahead:
    """The trainings of a search that have not begun, `epochs` of a whole one."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        #: Jobs that were begun, by phase; the sampler's that have ended, with their epochs.
        self._begun = defaultdict[str, list[Job]](list)
        self._own: list[tuple[Job, int]] = []

    def begun(self, job: Job) -> None:
        """One has begun."""
        self._begun[phase_of(job)].append(job)

    def ended(self, evaluation: Evaluation) -> None:
        """One has ended."""
        if evaluation.status != "failed" and phase_of(evaluation.job) == SAMPLER:
            self._own.append((evaluation.job, evaluation.fidelity))

    def left(self, outlook: Outlook, count: int) -> Iterator[float]:
        """Expected seconds of each of so many that have not begun."""
        # Where the sampler is asked already, what comes before it has ended.
        for phase, planned in () if self._begun[SAMPLER] else outlook.planned.items():
            begun = self._begun[phase]
            # What is healed is smaller than what was cut; how much is known from those that have begun.
            before = sum(planned[: len(begun)])
            less = outlook.of((job, None) for job in begun) / before if before else 1.0
            there = planned[len(begun) :][:count]
            count -= len(there)
            yield from (less * seconds for seconds in there)
        yield from itertools.repeat(self._of_sampler(outlook), count)

    def share(self, outlook: Outlook) -> float:
        """Of the epochs of the sampler's trainings the share that they are trained for."""
        return _faded(_SHARED, outlook.share, (epochs / self._epochs for _, epochs in reversed(self._own)))

    def _of_sampler(self, outlook: Outlook) -> float:
        """Of a usual one of the sampler's, and of what it proposed of late."""
        late = (outlook.expected(job, None) for job, _ in reversed(self._own))
        return self.share(outlook) * _faded(_USUAL, outlook.usual, late)


def _faded(weight: float, usual: float, last: Iterable[float]) -> float:
    """The mean of what is usual, with a weight, and of what was seen, the last first, which fades."""
    total = weight * usual
    for age, value in enumerate(itertools.islice(last, _LATE)):
        total, weight = total + _FADES**age * value, weight + _FADES**age
    return total / weight


def phase_of(job: Job) -> str:
    """What a training is in its search."""
    if job.origin is not None:
        return HEALINGS
    if job.role.startswith("control"):
        return CONTROLS
    # What is enqueued may come before all else, so it says nothing of how far the others are.
    return job.role if job.role in (LARGE, ENQUEUED) else SAMPLER
