"""IncreLoRA: ranks grow where they matter. Zhang et al. 2023 (arXiv 2308.12043), algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from autopeft.anatomy import ModelShape
from autopeft.methods._candidates import by_candidate
from autopeft.methods._triplets import Triplets, importance, kept_of, watch
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.engine.procedures import Moment
    from autopeft.methods._bank import Bank

#: The share of the training in which ranks grow.
_GROWING = 0.6


@dataclass(frozen=True)
class IncreLoRA(Triplets):
    """W + scale P diag(e) Q that starts at rank 1 everywhere and grows to the share `keep` of all its triplets.

    Places whose triplets matter most, on average and for their number, get the next one, up to `rank` each. A triplet
    that does not take part yet has e = 0; its vectors are trained towards orthogonality (the paper's advance learning).
    """

    name: ClassVar[str] = "increlora"
    description: ClassVar[str] = "ranks that grow where they matter, to a budget (IncreLoRA, Zhang 2023)"
    paper: ClassVar[str] = "Zhang et al. 2023, arXiv 2308.12043, algorithm 1"
    stage: ClassVar[int] = 16

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The triplets', and which of them take part [r]: at first one."""
        return {**super().weights(shape, place), "active": Weight((self.rank,), _first, kind="state")}

    @classmethod
    def after_backward(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """See how much each triplet matters, and keep the values of those that do not take part at zero."""
        watch(banks)
        for bank in banks:
            gradient = bank.weight("E").grad
            if gradient is not None:
                gradient.mul_(bank.weight("active"))

    @classmethod
    def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Give the places that matter most their next triplets."""
        for k, own in by_candidate(banks):
            while _grow(own, k, moment):
                pass


def _grow(own: Sequence[Bank], k: int, moment: Moment) -> bool:
    """Give one more triplet of candidate k where it matters most; False where none is due."""
    ranks = [cast(IncreLoRA, bank.methods[k]).rank for bank in own]
    counts = [int(bank.weight("active")[k].sum()) for bank in own]
    last = max(len(own), kept_of(own, k))
    way = min(1.0, (moment.step + 1) / max(1.0, _GROWING * moment.steps))
    if sum(counts) >= len(own) + int(way * (last - len(own))):
        return False
    open_places = [i for i, (count, rank) in enumerate(zip(counts, ranks, strict=True)) if count < rank]
    if not open_places:
        return False
    # The mean over those that take part, over their number: so a place that has just grown waits for others.
    best = max(open_places, key=lambda i: float(importance(own[i])[k, : counts[i]].sum()) / counts[i] ** 2)
    own[best].weight("active")[k, counts[best]] = 1
    return True


def _first(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    return (torch.arange(shape[0]) == 0).float()
