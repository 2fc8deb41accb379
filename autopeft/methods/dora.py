"""DoRA: a direction by LoRA and a magnitude of each output. Liu et al. 2024, equation 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class DoRA(LoRA):
    """m (W + scale B A) / |W + scale B A|, row by row; what is trained of m is its distance from |W|.

    The norm is a constant for the gradient (section 4.3 of the paper).
    """

    name: ClassVar[str] = "dora"
    description: ClassVar[str] = "LoRA with a trained magnitude of each output (Liu 2024)"
    paper: ClassVar[str] = "Liu et al. 2024, equation 5"
    formula: ClassVar[str] = "r (in + out) + out"
    # Before biases and all else: it turns the frozen map.
    stage: ClassVar[int] = 5
    adds: ClassVar[bool] = False

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """LoRA's, and the magnitude's distance from the frozen weight's [out], zero."""
        return {**super().weights(shape, place), "magnitude": Weight((shape.width(place)[1],))}

    def fixed_flops(self, shape: ModelShape, site: str) -> int:
        """The norms: W A^T, A A^T and B (A A^T)."""
        wide_in, wide_out = shape.width(site)
        return 2 * self.rank * (wide_in * wide_out + self.rank * wide_in + self.rank * wide_out)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """The frozen map's output y + (c - 1) (y - b) + c scale B A x, with c = m / |W + scale B A|."""
        frozen = bank.place.weight()
        ratio = _ratio(frozen, bank.weight("A"), bank.weight("B"), bank.own_weight("magnitude"), bank.scale)
        bias = bank.place.bias()
        plain = output if bias is None else output - bias.to(output.dtype)
        output = output + plain * bank.rows(ratio - 1, output)
        return bank.add_product(output, bank.compress(site_input, "A"), bank.weight("B") * ratio[..., None])

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows of W + scale B A, each of its magnitude."""
        a, b, magnitude = (weights[w][None] for w in ("A", "B", "magnitude"))
        ratio = _ratio(weight.float(), a, b, magnitude, weight.new_tensor([self.scale]))[0]
        return ratio[:, None] * (weight + self.scale * weights["B"] @ weights["A"]), bias


def _ratio(
    frozen: torch.Tensor, a: torch.Tensor, b: torch.Tensor, magnitude: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Magnitude over norm [K, out], 1 where nothing is trained.

    |W + s B A|^2 = |W|^2 + 2 s B . (W A^T) + s^2 B . (B A A^T), row by row: no matrix of W's size a candidate.
    """
    import torch

    own = frozen.square().sum(1)
    with torch.no_grad():
        s = scale[:, None].to(b.dtype)
        turned = a.transpose(1, 2)
        cross = (b * torch.matmul(frozen, turned)).sum(2)
        square = (b * torch.bmm(b, torch.bmm(a, turned))).sum(2)
        norm = (own + 2 * s * cross + s.square() * square).clamp(min=1e-12).sqrt()
    return (own.clamp(min=1e-12).sqrt() + magnitude) / norm
