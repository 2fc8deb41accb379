"""BitFit: every bias. Ben Zaken et al. 2022, section 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import MAPS, ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class BitFit(Method):
    """Changes of all biases of maps and norms; a map without a bias gets one, a norm without does not.

    Zero changes nothing, so that weight decay pulls to the backbone's bias and not, as in the paper, to zero.
    """

    name: ClassVar[str] = "bitfit"
    description: ClassVar[str] = "biases of maps and norms (BitFit, Ben Zaken 2022)"
    paper: ClassVar[str] = "Ben Zaken et al. 2022, section 3"
    family: ClassVar[Kin] = "partial"
    formula: ClassVar[str] = "the output width of each map and norm: 7d + f in BERT"
    usual_rate: ClassVar[float] = 0.01
    usual: ClassVar[Mapping[str, Any]] = {"active": 1}
    size: ClassVar[str] = "active"
    largest: ClassVar[int] = 1
    allowed_sites: ClassVar[tuple[str, ...]] = (*MAPS, "norm1", "norm2")
    stage: ClassVar[int] = 6
    adds: ClassVar[bool] = True
    random_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    biases: ClassVar[bool] = True
    # LoRA's configuration for no map, with `bias: all`.
    peft_type: ClassVar[str | None] = "LORA"
    unit_axes: ClassVar[Mapping[str, int] | None] = {}

    active: int
    sites: tuple[str, ...] = (*MAPS, "norm1", "norm2")

    def places(self, shape: ModelShape) -> tuple[str, ...]:
        """Without norms that have no bias."""
        return tuple(p for p in super().places(shape) if shape.norm_bias or not p.startswith("norm"))

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """A change of the bias [out], zero."""
        return {"bias": Weight((shape.width(place)[1],))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """No products of matrices."""
        return MethodFlops(0, 0, 0)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + db."""
        return output + bank.vector("bias", output)

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The sum, or the first bias that the map has."""
        return weight, weights["bias"] if bias is None else bias + weights["bias"]
