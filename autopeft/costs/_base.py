"""What a cost is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.hybrid import Hybrid


class Cost(ABC):
    """A closed form of the hybrid and the model's shape; less is better.

    Invariants: exact, pure, never below 0, and no smaller for a hybrid with one more method. As one method's size grows
    it may fall; `Budget.check_feasible` refuses a limit on it then. The task's head is never counted: it is the same
    for every hybrid, and reported apart.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    #: What a value counts, in the plural.
    unit: ClassVar[str]
    #: Its name where there is little room; "" where that is `name`.
    short: ClassVar[str] = ""
    #: Whether it is that of the empty hybrid, what each method adds to that alone, and `once`: thousands are then sums.
    additive: ClassVar[bool] = False
    #: Whether it grows with the tokens that go through the layers, so that it is no sum where methods add some.
    by_tokens: ClassVar[bool] = False

    def once(self, hybrid: Hybrid, shape: ModelShape) -> Mapping[Hashable, int]:
        """The part of an additive cost that a model pays once, however many layers share it, by what it is paid for.

        Of a hybrid it is, for each key, the largest of what its layers would give alone.
        """
        return {}

    def adds_up(self, hybrid: Hybrid, shape: ModelShape) -> bool:
        """Whether an additive cost is a sum for the methods of this hybrid too, and for any part of them."""
        return True

    @abstractmethod
    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The cost of `hybrid` on a model of `shape`, for sequences of `length` tokens where that matters."""

    @abstractmethod
    def reference(self, shape: ModelShape, length: int) -> int:
        """What a share of 100% in a budget means."""
