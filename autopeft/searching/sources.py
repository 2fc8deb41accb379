"""Where a search's trainings come from before its sampler is asked."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from autopeft.candidate import Evaluation, Job


@dataclass(frozen=True)
class Allowance:
    """At most how much of a search a source may take: so many trainings, and seconds of training on all workers."""

    trainings: float = math.inf
    seconds: float = math.inf

    @classmethod
    def of(cls, share: float, trials: int | None, seconds: float | None) -> Self:
        """That share of a search of so many trials and seconds; None where one of them has no limit."""
        found = [math.inf if whole is None else share * whole for whole in (trials, seconds)]
        return cls(found[0] if trials is None else math.floor(found[0]), found[1])

    def left(self, ended: Sequence[Evaluation], running: int) -> float:
        """How many more trainings it may begin after those of its own; none once the seconds are spent.

        What is running then comes to its end, so the seconds may be passed by a pack.
        """
        late = sum(e.seconds for e in ended) >= self.seconds
        return 0 if late else self.trainings - len(ended) - running


UNLIMITED = Allowance()


class Source(Protocol):
    """Trainings that no sampler proposes: controls, cuts of what is trained.

    What comes next follows from what has ended and what is running, and from nothing that is kept beside: so a search
    that was killed goes on as it would have.
    """

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        """Up to `most` jobs for one pack; none of them while it waits for running ones, None when it has no more.

        A job that has ended or is running must not come again.
        """

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        """Keys of ended candidates whose weights it may still ask for."""
