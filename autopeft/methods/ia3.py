"""(IA)3: learned scales of keys, values and the feed-forward network's inner activation. Liu et al. 2022, 3.3."""

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
class IA3(Method):
    """l * k, l * v and l * g(W_up x): the last acts after the activation, so at the input of `down`.

    What is trained is l - 1, which starts at zero.
    """

    name: ClassVar[str] = "ia3"
    description: ClassVar[str] = "scales of keys, values and the FFN's inner activation ((IA)3, Liu 2022)"
    paper: ClassVar[str] = "Liu et al. 2022, section 3.3"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "the width of each place: 2d + f in BERT"
    usual_rate: ClassVar[float] = 0.01
    usual: ClassVar[Mapping[str, Any]] = {"active": 1}
    size: ClassVar[str] = "active"
    largest: ClassVar[int] = 1
    allowed_sites: ClassVar[tuple[str, ...]] = ("k", "v", "down_in")
    stage: ClassVar[int] = 50
    random_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    unit_axes: ClassVar[Mapping[str, int] | None] = {}
    peft_type: ClassVar[str | None] = "IA3"

    active: int
    sites: tuple[str, ...] = ("k", "v", "down_in")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The scale's distance from one [out], zero."""
        return {"scale_change": Weight((shape.width(place)[1],))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """No products of matrices."""
        return MethodFlops(0, 0, 0)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output * l."""
        return output + output * bank.vector("scale_change", output)

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows of the map (and its bias) times l, or columns of `down`."""
        scale = 1 + weights["scale_change"]
        if place == "down_in":
            return weight * scale, bias
        return weight * scale[:, None], None if bias is None else bias * scale
