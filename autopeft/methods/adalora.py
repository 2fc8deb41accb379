"""AdaLoRA: singular triplets, pruned by importance to a budget. Zhang et al. 2023, algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from autopeft.methods._candidates import by_candidate
from autopeft.methods._triplets import Triplets, importance, kept_of, watch

if TYPE_CHECKING:
    from autopeft.engine.procedures import Moment
    from autopeft.methods._bank import Bank

#: Shares of the training before the pruning begins and after it has ended.
_BEFORE, _AFTER = 0.1, 0.3


@dataclass(frozen=True)
class AdaLoRA(Triplets):
    """W + scale P diag(e) Q of rank `rank`, of which the share `keep` of all triplets is left at the end.

    The budget falls by a cubic schedule; each step the triplets that matter least over all layers have e set to zero.
    """

    name: ClassVar[str] = "adalora"
    description: ClassVar[str] = "singular triplets pruned to a budget over all layers (AdaLoRA, Zhang 2023)"
    paper: ClassVar[str] = "Zhang et al. 2023, algorithm 1"
    stage: ClassVar[int] = 14

    @classmethod
    def after_backward(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """See how much each triplet matters."""
        watch(banks)

    @classmethod
    def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Set the values of the triplets beyond the budget to zero."""
        import torch

        for k, own in by_candidate(banks):
            ranks = [cast(AdaLoRA, bank.methods[k]).rank for bank in own]
            left = _budget(sum(ranks), max(1, kept_of(own, k)), moment)
            scores = torch.cat([importance(bank)[k, :rank] for bank, rank in zip(own, ranks, strict=True)])
            kept = torch.zeros_like(scores)
            kept[scores.topk(left).indices] = 1
            for bank, rank, mask in zip(own, ranks, kept.split(ranks), strict=True):
                bank.weight("E")[k, :rank] *= mask


def _budget(total: int, last: int, moment: Moment) -> int:
    """How many of `total` triplets are left after a step, and `last` at the end (equation 12)."""
    begin, end = _BEFORE * moment.steps, (1 - _AFTER) * moment.steps
    if moment.step < begin:
        return total
    if moment.step >= end:
        return last
    way = (moment.step - begin) / (end - begin)
    return last + round((total - last) * (1 - way) ** 3)
