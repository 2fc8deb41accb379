"""LoRA-FA: LoRA with A frozen as it was drawn. Zhang et al. 2023, equation 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method, MethodFlops
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA


@dataclass(frozen=True)
class LoRAFA(LoRA):
    """W + scale B A, where B alone is trained; folded, it is LoRA."""

    name: ClassVar[str] = "lora_fa"
    description: ClassVar[str] = "LoRA with a frozen A (Zhang 2023)"
    paper: ClassVar[str] = "Zhang et al. 2023, equation 4"
    formula: ClassVar[str] = "r out"
    stage: ClassVar[int] = 11

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """A [r, in] Kaiming and frozen, B [out, r] zero."""
        wide_in, wide_out = shape.width(place)
        return {"A": Weight((self.rank, wide_in), "kaiming", kind="frozen"), "B": Weight((wide_out, self.rank))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Two thin products forward, one backward (three where the gradient flows on)."""
        wide_in, wide_out = shape.width(site)
        unit = 2 * length * self.rank
        return MethodFlops(unit * (wide_in + wide_out), unit * wide_out, unit * (wide_in + wide_out))

    def folded(self) -> Method:
        """LoRA of the same rank."""
        return LoRA(self.rank, self.sites, self.scale)
