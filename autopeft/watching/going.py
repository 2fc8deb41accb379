"""A pack in training, as a clock sees it."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.candidate import SAMPLER, Job
from autopeft.watching.outlook import phase_of


@dataclass
class Going:
    """Its members by their numbers, how many epochs have ended, and when the last one did (before that: the start).

    `known`: whether its training began when it was sent to its worker, which had started then; else it is measured from
    the end of its first epoch on. `since` is that time and how many epochs had ended then, `length` what the last
    epoch took.
    """

    jobs: dict[int, Job]
    epochs: int
    at: float
    known: bool
    done: int = 0
    since: tuple[float, int] | None = None
    length: float | None = None

    @property
    def stops(self) -> bool:
        """Whether it is the sampler's, of which some are stopped."""
        return all(phase_of(job) == SAMPLER for job in self.jobs.values())

    def ended(self, epoch: int, now: float) -> None:
        """An epoch has ended."""
        if self.known or self.since is not None:
            self.length = (now - self.at) / (epoch - self.done)
        if self.since is None:
            self.since = (self.at, 0) if self.known else (now, epoch)
        self.at, self.done = now, epoch

    def measured(self, now: float, expected: float) -> tuple[float, float]:
        """Seconds, and the epochs that took them; one that runs counts where it takes longer than is expected.

        Not the first one: a pack may wait for its worker, which another process keeps from starting.
        """
        begun, before = self.since or (self.at, self.done)
        if self.since is not None and self.done < self.epochs and now - self.at > expected:
            return now - begun, self.done + 1 - before
        return self.at - begun, self.done - before
