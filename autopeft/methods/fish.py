"""FISH mask: train the entries of largest Fisher information. Sung et al. 2021, section 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.methods._dense import SparseChange
from autopeft.methods._masks import keep_all, keep_largest

if TYPE_CHECKING:
    from autopeft.methods._bank import Bank

#: Batches over which squared gradients are averaged; the paper's examples one by one would take B times as long.
_BATCHES = 16


@dataclass(frozen=True)
class FISH(SparseChange):
    """W + D: the entries of D are trained at which the loss's gradients are largest in the mean square at the start.

    Squared gradients are those of batches rather than of examples.
    """

    name: ClassVar[str] = "fish"
    description: ClassVar[str] = "the entries of largest Fisher information (FISH mask, Sung 2021)"
    paper: ClassVar[str] = "Sung et al. 2021, section 3"
    usual: ClassVar[Mapping[str, Any]] = {"kept": 8192, "sites": "all-linear"}
    usual_rate: ClassVar[float] = 3e-3
    stage: ClassVar[int] = 9

    @classmethod
    def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
        """Choose the entries."""
        for bank in banks:
            keep_all(bank, "change")
        squares = {bank: bank.weight("change").new_zeros(bank.weight("change").shape) for bank in banks}
        for _ in range(_BATCHES):
            gradients(1)
            for bank, square in squares.items():
                gradient = bank.weight("change").grad
                assert gradient is not None, "gradients were taken"
                square.addcmul_(gradient, gradient)
        keep_largest(banks, ("change",), lambda bank, name: squares[bank])
