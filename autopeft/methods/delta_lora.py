"""Delta-LoRA: the frozen weight follows the change of B A. Zi et al. 2023, equation 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import MethodFlops
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    import torch

    from autopeft.engine.procedures import Moment
    from autopeft.methods._bank import Bank


#: The share of the training before W begins to follow, and how far it goes (the paper's K and lambda).
_BEFORE, FOLLOWS = 0.1, 0.5


@dataclass(frozen=True)
class DeltaLoRA(LoRA):
    """W + D + scale B A, where D takes half of the change of scale B A at each step once training has warmed up.

    A and B are trained, D [out, in] is stored with them: a checkpoint of the maps' own size, which merges.
    """

    name: ClassVar[str] = "delta_lora"
    description: ClassVar[str] = "LoRA whose change the weight itself follows (Delta-LoRA, Zi 2023)"
    paper: ClassVar[str] = "Zi et al. 2023, equation 5"
    formula: ClassVar[str] = "r (in + out); stored: in out"
    stage: ClassVar[int] = 17
    peft_type: ClassVar[str | None] = None
    # The change D is of all units together.
    unit_axes: ClassVar[Mapping[str, int] | None] = None
    max_pack: ClassVar[int | None] = 16

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """LoRA's, the change D [out, in], and A and B before the step."""
        wide_in, wide_out = shape.width(place)
        return {
            **super().weights(shape, place),
            "change": Weight((wide_out, wide_in), kind="written"),
            "A_before": Weight((self.rank, wide_in), kind="state"),
            "B_before": Weight((wide_out, self.rank), kind="state"),
        }

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """LoRA's, and D's product forward; backward it has only to pass the gradient on."""
        wide_in, wide_out = shape.width(site)
        own, whole = super().flops(shape, site, length), 2 * length * wide_in * wide_out
        return MethodFlops(own.forward + whole, own.backward, own.backward_input + whole)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + D x + scale B A x."""
        changed = bank.add_dense(output, site_input, bank.weight("change"))
        return bank.add_expanded(changed, bank.compress(site_input, "A"), "B")

    @classmethod
    def after_backward(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Remember A and B."""
        for bank in banks:
            for name in ("A", "B"):
                bank.weight(f"{name}_before").copy_(bank.weight(name))

    @classmethod
    def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        """Let D follow."""
        import torch

        if moment.step < _BEFORE * moment.steps:
            return
        for bank in banks:
            now = torch.bmm(bank.weight("B"), bank.weight("A"))
            before = torch.bmm(bank.weight("B_before"), bank.weight("A_before"))
            bank.weight("change").add_((now - before) * (FOLLOWS * bank.scale)[:, None, None])

    def kept_params(self, shape: ModelShape) -> int:
        """The whole maps."""
        wide = [shape.width(place) for place in self.places(shape)]
        return sum(wide_in * wide_out for wide_in, wide_out in wide) if self.rank else 0

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + D + scale B A."""
        return weight + weights["change"] + self.scale * weights["B"] @ weights["A"], bias
