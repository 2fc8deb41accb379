"""Kernel-mix: low rank in each attention head, and across all. Chen et al. 2022 (NAACL), section 4.2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import MethodFlops
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class KernelMix(LoRA):
    """W_h + scale (B_h A_h + C_h A): each head h of q, k or v has its own A_h, and all of them a common A.

    The paper sees attention as kernels, one a head, that a matrix of one low rank for all heads can't follow.
    """

    name: ClassVar[str] = "kernel_mix"
    description: ClassVar[str] = "low rank in each attention head and across heads (Kernel-mix, Chen 2022)"
    paper: ClassVar[str] = "Chen et al. 2022, NAACL, section 4.2"
    formula: ClassVar[str] = "r in (H + 1) + 2 r out, of H heads"
    usual_rate: ClassVar[float] = 0.006
    usual: ClassVar[Mapping[str, Any]] = {"rank": 2, "sites": ("q", "v"), "scale": 2.0}
    allowed_sites: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    stage: ClassVar[int] = 18
    peft_type: ClassVar[str | None] = None
    unit_axes: ClassVar[Mapping[str, int] | None] = {"A_heads": 1, "B_heads": 2, "A": 0, "B": 1}

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """A_h [H, r, in] and A [r, in] Kaiming; B_h [H, head width, r] and C [out, r] zero."""
        wide_in, wide_out = shape.width(place)
        heads = wide_out // shape.head_dim
        return {
            "A_heads": Weight((heads, self.rank, wide_in), _by_rank),
            "B_heads": Weight((heads, shape.head_dim, self.rank)),
            "A": Weight((self.rank, wide_in), "kaiming"),
            "B": Weight((wide_out, self.rank)),
        }

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In the singular directions of C A, and of B_h A_h of each head."""
        from autopeft.methods._singular import turned

        return turned(super().canonical(weights), "A_heads", "B_heads")

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """LoRA's of rank r (H + 1), but each head's B acts on that head alone."""
        wide_in, wide_out = shape.width(site)
        unit = 2 * length * self.rank
        down, up = unit * wide_in * (wide_out // shape.head_dim + 1), unit * wide_out * 2
        return MethodFlops(down + up, down + 2 * up, down)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + scale (B_h A_h x + C_h A x)."""
        import torch

        a, b = bank.weight("A_heads"), bank.weight("B_heads") * bank.scale[:, None, None, None]
        count, heads, rank = a.shape[:3]
        middle = bank.split(site_input) @ a.flatten(1, 2).transpose(1, 2).to(site_input.dtype)
        by_head = middle.unflatten(2, (heads, rank)).transpose(1, 2).flatten(0, 1)
        own = torch.bmm(by_head, b.flatten(0, 1).transpose(1, 2).to(middle.dtype))
        joined = own.unflatten(0, (count, heads)).transpose(1, 2).reshape(output.shape)
        return bank.add_expanded(output + joined, bank.compress(site_input, "A"), "B")

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + scale (B_h A_h + C_h A)."""
        by_head = (weights["B_heads"] @ weights["A_heads"]).flatten(0, 1)
        return weight + self.scale * (by_head + weights["B"] @ weights["A"]), bias


def _by_rank(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Kaiming [H, r, in], drawn rank by rank: a smaller rank has the first ones of a larger."""
    import torch

    heads, rank, wide_in = shape
    bound = wide_in**-0.5
    return (torch.rand(rank, heads, wide_in, generator=generator) * (2 * bound) - bound).transpose(0, 1).contiguous()
