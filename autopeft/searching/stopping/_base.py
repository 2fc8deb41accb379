"""What a stopping rule is, and what it sees: courses, values without torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from autopeft.config import Strict


@dataclass(frozen=True)
class Course:
    """How far a candidate has come.

    `costs`: the objectives that are known before training, less is better; may be empty. `scores`: the other ones,
    [epochs][scores], turned so that larger is better. `losses`: the validation loss, one an epoch.
    """

    number: int
    costs: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    losses: tuple[float, ...]
    status: Literal["running", "done", "stopped"]

    @property
    def epoch(self) -> int:
        """How many epochs it has behind it."""
        return len(self.scores)

    def no_dearer(self, other: Course) -> bool:
        """Whether no cost is greater than the other's; always, where costs are no objective."""
        return all(mine <= its for mine, its in zip(self.costs, other.costs, strict=True))

    def no_worse(self, other: Course, epoch: int) -> bool:
        """Whether no score after that epoch was below the other's; both must have got there."""
        pairs = zip(self.scores[epoch - 1], other.scores[epoch - 1], strict=True)
        return all(mine >= its for mine, its in pairs)


class StoppingPlugin(Strict):
    """Options of a rule, and the rule.

    Invariants (held for every plug-in by the conformance suite): `stop` is a function of its arguments, and of the
    order of the courses it does not depend; it names running courses only, none that has its last epoch behind it, and
    none unless a course of no greater cost was at least as good in every score after the same epoch.
    """

    name: ClassVar[str]
    #: One line for `autopeft list stopping`.
    description: ClassVar[str]
    #: False when it never stops anything: a search then need not ask.
    stops: ClassVar[bool] = True

    @abstractmethod
    def stop(self, courses: Sequence[Course], epochs: int) -> set[int]:
        """Numbers of the running courses to be stopped now; asked after each epoch of a pack, of `epochs` in all."""
