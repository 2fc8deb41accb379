"""What a cost is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.hybrid import Hybrid


class Cost(ABC):
    """A closed form of the hybrid and the model's shape; less is better.

    Invariants: exact, pure, never below 0, and no smaller for a hybrid with a larger size somewhere. The task's head
    is never counted: it is the same for every hybrid, and reported apart.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    #: What a value counts, in the plural.
    unit: ClassVar[str]
    #: Whether it is that of the empty hybrid and what each method adds to that alone: thousands are then sums.
    additive: ClassVar[bool] = False

    @abstractmethod
    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The cost of `hybrid` on a model of `shape`, for sequences of `length` tokens where that matters."""

    @abstractmethod
    def reference(self, shape: ModelShape, length: int) -> int:
        """What a share of 100% in a budget means."""
