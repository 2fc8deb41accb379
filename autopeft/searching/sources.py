"""Where a search's trainings come from before its sampler is asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from autopeft.candidate import Evaluation, Job


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
