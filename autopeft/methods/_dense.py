"""What LT-SFT and FISH share: a change of a whole map of which few entries are trained.

Shapes: K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import MAPS, ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._masks import drawn
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class SparseChange(Method):
    """W + D with D zero but for `kept` entries a map, counted over all maps: which, is chosen among all of them.

    Decay pulls D to zero, so W to the backbone's. Stored are values and places.
    """

    family: ClassVar[Kin] = "partial"
    formula: ClassVar[str] = "K"
    size: ClassVar[str] = "kept"
    allowed_sites: ClassVar[tuple[str, ...]] = MAPS
    random_init: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    adds: ClassVar[bool] = True
    max_pack: ClassVar[int | None] = 4

    kept: int
    sites: tuple[str, ...] = ("q", "v")

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The change [out, in], zero, and its mask; drawn until it is chosen."""
        wide_in, wide_out = shape.width(place)
        kept = min(self.kept, wide_in * wide_out)
        return {
            "change": Weight((wide_out, wide_in), kept=kept),
            # As stored it is the places of its ones, 32 bits each.
            "change_mask": Weight((wide_out, wide_in), drawn(kept), kind="written", kept=kept),
        }

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Those of a map that is trained."""
        wide_in, wide_out = shape.width(site)
        whole = 2 * length * wide_in * wide_out
        return MethodFlops(whole, whole, whole)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + D x."""
        return bank.add_dense(output, site_input, bank.weight("change") * bank.weight("change_mask"))

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + D."""
        return weight + weights["change"] * weights["change_mask"], bias
