"""What is being done just now: stages, for whoever shows them.

Like a log it is the process's, so that what takes long can say so wherever it stands; nobody need listen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Stage:
    """A piece of work that takes a while: `done` of `total` parts of it, where it has parts.

    `aside`: it is a part of something else that is told of, so it is said only by who tells of that.
    """

    what: str
    total: int | None = None
    done: int = 0
    aside: bool = False
    begun: float = field(default_factory=lambda: time.monotonic())

    def step(self, count: int = 1) -> None:
        """So many more parts are done."""
        self.done += count

    @property
    def seconds(self) -> float:
        """Since it has begun."""
        return time.monotonic() - self.begun

    @property
    def words(self) -> str:
        """`measuring on test, 3 of 12`."""
        return self.what if self.total is None else f"{self.what}, {self.done} of {self.total}"


class Hearer(Protocol):
    """Who hears of stages that have ended; what is going on they ask for themselves (`stages`)."""

    def did(self, stage: Stage) -> None:
        """A stage has ended."""


_now: list[Stage] = []
_hearers: list[Hearer] = []


@contextmanager
def doing(what: str, total: int | None = None, aside: bool = False) -> Iterator[Stage]:
    """Inside, this is being done; in any thread."""
    stage = Stage(what, total, aside=aside)
    _now.append(stage)
    try:
        yield stage
    finally:
        # By identity: two may be equal.
        _now[:] = [one for one in _now if one is not stage]
        for hearer in tuple(_hearers):
            hearer.did(stage)


def stages() -> list[Stage]:
    """What is being done, what has begun first first."""
    return list(_now)


def hear(hearer: Hearer) -> None:
    """Tell it of stages from now on."""
    _hearers.append(hearer)


def let_go(hearer: Hearer) -> None:
    """Tell it no more."""
    _hearers[:] = [one for one in _hearers if one is not hearer]
