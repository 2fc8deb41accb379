"""Masking: frozen weights, of which a trained mask leaves some out. Zhao et al. 2020, section 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import MAPS, ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._checks import is_number
from autopeft.methods._masks import straight_through
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class ThresholdMask(Method):
    """W * 1[M >= threshold] with a real M of W's size; gradients go straight through the comparison.

    At the start the share `sparsity` of the entries is left out, at random: M is uniform over two thresholds' width.
    Stored is a bit an entry.
    """

    name: ClassVar[str] = "threshold_mask"
    description: ClassVar[str] = "a binary mask on the frozen weights (Masking, Zhao 2020)"
    paper: ClassVar[str] = "Zhao et al. 2020, section 3"
    family: ClassVar[Kin] = "partial"
    usual_rate: ClassVar[float] = 5e-4
    formula: ClassVar[str] = "in out (a bit each as stored)"
    usual: ClassVar[Mapping[str, Any]] = {"active": 1, "sites": "all-linear"}
    size: ClassVar[str] = "active"
    largest: ClassVar[int] = 1
    allowed_sites: ClassVar[tuple[str, ...]] = MAPS
    stage: ClassVar[int] = 7
    zero_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    adds: ClassVar[bool] = True
    max_pack: ClassVar[int | None] = 4

    active: int
    sites: tuple[str, ...] = ("q", "v")
    threshold: float = 0.01
    sparsity: float = 0.05

    def __post_init__(self) -> None:
        """Check the threshold and the share too."""
        super().__post_init__()
        for name, value in (("threshold", self.threshold), ("sparsity", self.sparsity)):
            if not is_number(value) or not 0 <= value < 1 or (name == "threshold" and value < 1e-6):
                bounds = "1/1,000,000 or more" if name == "threshold" else "0 or more"
                raise self._wrong(f"{name} must be {bounds} and below 1", value)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """M [out, in]."""
        wide_in, wide_out = shape.width(place)
        return {"scores": Weight((wide_out, wide_in), partial(_around, self.threshold, self.sparsity), bits=1)}

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has one threshold."""
        return (("threshold", self.threshold),)

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Those of a map that is trained: K masked maps share one frozen product, and add what they leave out."""
        wide_in, wide_out = shape.width(site)
        whole = 2 * length * wide_in * wide_out
        return MethodFlops(whole, whole, whole)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output - (W * (1 - mask)) x."""
        scores = bank.weight("scores")
        mask = straight_through((scores >= self.threshold).to(scores.dtype), scores)
        return bank.add_dense(output, site_input, (mask - 1) * bank.place.weight() * bank.scale[:, None, None])

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The mask itself, of zeros and ones, for M."""
        return self.as_bits(weights)

    def as_bits(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mask itself, of zeros and ones, for M."""
        return {"scores": (weights["scores"] >= self.threshold).to(weights["scores"].dtype)}

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W where the mask is 1."""
        return weight * (weights["scores"] >= self.threshold), bias


def _around(threshold: float, sparsity: float, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Uniform, with that share of the values below the threshold."""
    import torch

    return threshold * (1 + 2 * (torch.rand(shape, generator=generator) - sparsity))
