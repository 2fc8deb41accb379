"""Norm tuning: gain and bias of each norm. Zhao et al. 2023, section 3 (LayerNorm); RMSNorm has a gain only."""

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
class Norm(Method):
    """(g + dg) n + b + db, with n the normalised input; dg and db are trained, so decay pulls to the backbone."""

    name: ClassVar[str] = "norm"
    description: ClassVar[str] = "gain and bias of the norms (LN tuning, Zhao 2023)"
    paper: ClassVar[str] = "Zhao et al. 2023, section 3"
    family: ClassVar[Kin] = "partial"
    formula: ClassVar[str] = "2d; d where norms have no bias"
    usual_rate: ClassVar[float] = 0.01
    usual: ClassVar[Mapping[str, Any]] = {"active": 1}
    size: ClassVar[str] = "active"
    largest: ClassVar[int] = 1
    allowed_sites: ClassVar[tuple[str, ...]] = ("norm1", "norm2")
    stage: ClassVar[int] = 5
    adds: ClassVar[bool] = True
    random_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    unit_axes: ClassVar[Mapping[str, int] | None] = {}

    active: int
    sites: tuple[str, ...] = ("norm1", "norm2")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """Changes of the gain and of the bias [d], zero."""
        gain = {"gain": Weight((shape.hidden,))}
        return gain | ({"shift": Weight((shape.hidden,))} if shape.norm_bias else {})

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """No products of matrices."""
        return MethodFlops(0, 0, 0)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + dg n + db."""
        normed = _normalised(bank.place.module, site_input, "shift" in bank.declared).to(output.dtype)
        output = output + normed * bank.vector("gain", output)
        return output + bank.vector("shift", output) if "shift" in bank.declared else output

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The sums."""
        return weight + weights["gain"], bias + weights["shift"] if bias is not None and "shift" in weights else bias


def _normalised(module: Any, x: torch.Tensor, centred: bool) -> torch.Tensor:
    """LayerNorm's or RMSNorm's n in fp32."""
    from torch.nn import functional

    if centred:
        return functional.layer_norm(x.float(), x.shape[-1:], eps=module.eps)
    return functional.rms_norm(x.float(), x.shape[-1:], eps=module.variance_epsilon)
