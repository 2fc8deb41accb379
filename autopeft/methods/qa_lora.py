"""QA-LoRA: LoRA whose A sees sums over groups of inputs. Xu et al. 2023, section 3.3, algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import MAPS, ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight
from autopeft.quantising import group_of

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class QALoRA(Method):
    """W + scale (B A), each column of A repeated for a group of 32 inputs; A [r, in / 32] Kaiming, B [out, r] zero.

    All weights of a group change by one number. So on a backbone kept as `int4`, whose groups are the same, a trained
    update goes into the zero points exactly, and the merged model has the integers that it had.
    """

    name: ClassVar[str] = "qa_lora"
    description: ClassVar[str] = "LoRA over sums of 32 inputs: merges into an int4 backbone exactly (Xu 2023)"
    paper: ClassVar[str] = "Xu et al. 2023, section 3.3"
    family: ClassVar[Kin] = "reparameterised"
    formula: ClassVar[str] = "r (in / 32 + out)"
    usual: ClassVar[Mapping[str, Any]] = {"rank": 8, "sites": ("q", "v"), "scale": 2.0}
    size: ClassVar[str] = "rank"
    allowed_sites: ClassVar[tuple[str, ...]] = MAPS
    stage: ClassVar[int] = 10
    mergeable: ClassVar[bool] = True
    unit_axes: ClassVar[Mapping[str, int] | None] = {"A": 0, "B": 1}

    rank: int
    sites: tuple[str, ...] = ("q", "v")
    scale: float = 1.0

    def __post_init__(self) -> None:
        """The checks of every method."""
        super().__post_init__()
        object.__setattr__(self, "scale", self._check_scale(self.scale))

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """A [r, in / 32] Kaiming, B [out, r] zero."""
        wide_in, wide_out = shape.width(place)
        return {
            "A": Weight((self.rank, wide_in // group_of(wide_in)), "kaiming"),
            "B": Weight((wide_out, self.rank)),
        }

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """LoRA's products, of an input 32 times as narrow."""
        wide_in, wide_out = shape.width(site)
        groups, unit = wide_in // group_of(wide_in), 2 * length * self.rank
        return MethodFlops(unit * (groups + wide_out), unit * (2 * wide_out + groups), unit * groups)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + scale B A (the sums of x over groups)."""
        sums = site_input.unflatten(-1, (bank.weight("A").shape[-1], -1)).sum(-1)
        return bank.add_expanded(output, bank.compress(sums, "A"), "B")

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In the singular directions of B A."""
        from autopeft.methods._singular import turned

        return turned(weights, "A", "B")

    def output_scale(self) -> float:
        """The scale."""
        return self.scale

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + scale B A, one number a group."""
        change = self.scale * weights["B"] @ weights["A"]
        return weight + change.repeat_interleave(weight.shape[1] // change.shape[1], dim=1), bias
