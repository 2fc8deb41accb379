"""Sequential (serial) adapter. Houlsby et al. 2019, figure 2; after the FFN only: Pfeiffer et al. 2021."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopeft.anatomy import ModelShape
from autopeft.methods._adapter import Bottleneck
from autopeft.methods._base import Kin
from autopeft.methods._gate import Gated, gate_option
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class Sequential(Gated, Bottleneck):
    """h + W_up g(W_down h + b) + b on the output h of a block, before residual and norm.

    Sites: `down` is after the feed-forward network (Pfeiffer), `o` after attention; both is Houlsby's. With `gated` a
    text's own gate scales what is added.
    """

    name: ClassVar[str] = "sequential"
    usual_rate: ClassVar[float] = 0.001
    description: ClassVar[str] = "bottleneck adapter after the FFN, or after attention and FFN (Houlsby 2019)"
    paper: ClassVar[str] = "Houlsby et al. 2019, figure 2"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2dr + r + d"
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 48, "sites": ("o", "down")}
    size: ClassVar[str] = "bottleneck"
    allowed_sites: ClassVar[tuple[str, ...]] = ("o", "down")
    stage: ClassVar[int] = 20
    reads: ClassVar[Literal["site", "block", "output"]] = "output"

    bottleneck: int
    sites: tuple[str, ...] = ("down",)
    activation: str = "relu"
    gated: bool = gate_option()

    def __post_init__(self) -> None:
        """Check the gate too."""
        super().__post_init__()
        self._check_gate(Sequential)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """An adapter's, and the gate."""
        return {**super().weights(shape, place), **self.gate_weights(shape.hidden)}

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """H + the bottleneck of h."""
        return self.add_bottleneck(bank, output, output, self.row_scale(bank, output))
