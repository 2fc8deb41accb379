"""Asynchronous successive halving (Li et al. 2020), with several objectives (Schmucker et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from autopeft.searching.dominance import ranks
from autopeft.searching.stopping._base import Course, StoppingPlugin


class HalvingStopping(StoppingPlugin):
    """After the epochs `first`, `first * factor`, `first * factor^2`, ... about one in `factor` goes on.

    A rung holds all courses that got there, with their scores of that epoch and their costs. They are ranked by
    non-dominated sorting (Deb et al. 2002), as there is no order of one objective. Of those that are at the rung now, a
    course goes on when it is of the first rank, or when fewer than one in `factor` are of a better rank. Noise is not
    taken into account: a rank after an epoch is taken for the rank at the end.
    """

    name: ClassVar[str] = "halving"
    description: ClassVar[str] = "asynchronous successive halving by non-dominated rank (Li 2020, Schmucker 2021)"

    factor: int = Field(2, ge=2, le=1_000_000, description="one in so many goes on from a rung")
    first: int = Field(1, ge=1, le=1_000_000, description="epochs before the first rung")
    startup: int = Field(
        4, ge=2, le=1_000_000, description="courses that must have got to a rung before any is stopped there"
    )

    def stop(self, courses: Sequence[Course], epochs: int) -> set[int]:
        """Those at a rung whose rank is not among the best."""
        rungs, rung = set[int](), self.first
        while rung < epochs:
            rungs.add(rung)
            rung *= self.factor
        asked = {c.epoch for c in courses if c.status == "running"} & rungs
        return set().union(*(self._at([c for c in courses if c.epoch >= rung], rung) for rung in asked))

    def _at(self, reached: Sequence[Course], rung: int) -> set[int]:
        if len(reached) < self.startup:
            return set()
        found = ranks([[*c.costs, *(-score for score in c.scores[rung - 1])] for c in reached])
        better = {rank: int((found < rank).sum()) for rank in set(found.tolist())}
        return {
            c.number
            for c, rank in zip(reached, found.tolist(), strict=True)
            if c.status == "running" and c.epoch == rung and rank > 0 and better[rank] * self.factor >= len(reached)
        }
