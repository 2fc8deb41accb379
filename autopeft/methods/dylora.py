"""DyLoRA: one training for all ranks up to r. Valipour et al. 2023, algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method
from autopeft.methods._candidates import count_of
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    import torch

    from autopeft.engine.procedures import Moment
    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class DyLoRA(LoRA):
    """LoRA that is trained at a rank drawn anew for each step, and so serves at every rank below its own.

    The rank is one share of r for all layers; the first ranks are kept. Measured, and folded, it is LoRA of rank r.
    """

    name: ClassVar[str] = "dylora"
    description: ClassVar[str] = "LoRA trained for all ranks at once (DyLoRA, Valipour 2023)"
    paper: ClassVar[str] = "Valipour et al. 2023, algorithm 1"
    stage: ClassVar[int] = 13

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """LoRA's, and which ranks take part [r]."""
        return {**super().weights(shape, place), "active": Weight((self.rank,), "ones", kind="state")}

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + scale B A x, of the ranks that take part."""
        middle = bank.compress(site_input, "A") * bank.weight("active")[:, None].to(site_input.dtype)
        return bank.add_expanded(output, middle, "B")

    @classmethod
    def before_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Draw each candidate's share of its ranks."""
        import torch

        shares = [float(torch.rand((), generator=moment.generators[k])) for k in range(count_of(banks))]
        for bank in banks:
            set_ranks(bank, shares)

    @classmethod
    def before_measure(cls, banks: Sequence[Bank]) -> None:
        """All ranks take part."""
        for bank in banks:
            set_ranks(bank, [1.0] * len(bank.methods))

    def folded(self) -> Method:
        """LoRA of the same rank."""
        return LoRA(self.rank, self.sites, self.scale)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Its A and B."""
        return {name: weights[name] for name in ("A", "B")}


def set_ranks(bank: Bank, shares: Sequence[float]) -> None:
    """Have the first ranks of each candidate take part: that share of its own, at least one."""
    active = bank.weight("active")
    active.zero_()
    for k, method in enumerate(bank.methods):
        if method is not None:
            active[k, : min(method.size_value, 1 + int(shares[k] * method.size_value))] = 1
