"""Hadamard adapter: w * a + b on attention's output. Chen et al. 2023, equation 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class Hadamard(Method):
    """(1 + w) * a + b on the output a of attention; w and b start at zero."""

    name: ClassVar[str] = "hadamard"
    description: ClassVar[str] = "element-wise scale and shift of attention's output (Chen 2023)"
    paper: ClassVar[str] = "Chen et al. 2023, equation 5"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2d"
    usual_rate: ClassVar[float] = 0.01
    usual: ClassVar[Mapping[str, Any]] = {"active": 1}
    size: ClassVar[str] = "active"
    largest: ClassVar[int] = 1
    allowed_sites: ClassVar[tuple[str, ...]] = ("o",)
    stage: ClassVar[int] = 15
    random_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    unit_axes: ClassVar[Mapping[str, int] | None] = {}

    active: int
    sites: tuple[str, ...] = ("o",)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The scale's distance from one and the shift [d], zero."""
        return {"scale_change": Weight((shape.hidden,)), "shift": Weight((shape.hidden,))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """No products of matrices."""
        return MethodFlops(0, 0, 0)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output * (1 + w) + b."""
        scaled = output + output * bank.vector("scale_change", output)
        return scaled + bank.vector("shift", output)

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows of the map and its bias, scaled and shifted."""
        scale = 1 + weights["scale_change"]
        shift = weights["shift"] if bias is None else bias * scale + weights["shift"]
        return weight * scale[:, None], shift
