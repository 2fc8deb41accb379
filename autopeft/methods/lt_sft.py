"""LT-SFT: train all, keep the largest changes, rewind, train only those. Ansell et al. 2022, section 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.methods._dense import SparseChange
from autopeft.methods._masks import keep_all, keep_largest

if TYPE_CHECKING:
    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class LTSFT(SparseChange):
    """W + D: in the first half of the training all of D is trained, in the second the entries that changed most.

    These begin at zero again, with an optimiser of their own (the lottery ticket hypothesis). The head and other
    methods of the candidate go on from where they are; the paper rewinds all.
    """

    name: ClassVar[str] = "lt_sft"
    description: ClassVar[str] = "the entries that change most, found and trained again (LT-SFT, Ansell 2022)"
    paper: ClassVar[str] = "Ansell et al. 2022, section 3"
    usual: ClassVar[Mapping[str, Any]] = {"kept": 16384, "sites": "all-linear"}
    stage: ClassVar[int] = 19
    phases: ClassVar[tuple[float, ...]] = (0.5, 0.5)
    judged_from: ClassVar[float] = 0.5

    @classmethod
    def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
        """All entries take part."""
        for bank in banks:
            keep_all(bank, "change")

    @classmethod
    def end_phase(cls, banks: Sequence[Bank]) -> None:
        """Keep the largest changes, and rewind."""
        keep_largest(banks, ("change",), lambda bank, name: bank.weight(name).abs())
        for bank in banks:
            bank.weight("change").zero_()
