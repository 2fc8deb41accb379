"""Parallel adapter around the FFN. He et al. 2022, table 1 and section 4.6."""

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
class Parallel(Gated, Bottleneck):
    """F(x) + s (W_up g(W_down x + b) + b), with x the input of the feed-forward network F.

    With `gated` a text's own gate scales what is added.
    """

    name: ClassVar[str] = "parallel"
    description: ClassVar[str] = "scaled bottleneck adapter beside the FFN (He 2022)"
    paper: ClassVar[str] = "He et al. 2022, table 1"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2dr + r + d"
    usual_rate: ClassVar[float] = 0.001
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 48}
    size: ClassVar[str] = "bottleneck"
    allowed_sites: ClassVar[tuple[str, ...]] = ("down",)
    stage: ClassVar[int] = 30
    adds: ClassVar[bool] = True
    reads: ClassVar[Literal["site", "block", "output"]] = "block"

    bottleneck: int
    sites: tuple[str, ...] = ("down",)
    scale: float = 4.0
    activation: str = "relu"
    gated: bool = gate_option()

    def __post_init__(self) -> None:
        """Check the scale and the gate too."""
        super().__post_init__()
        self._check_gate(Parallel)
        object.__setattr__(self, "scale", self._check_scale(self.scale))

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """An adapter's, and the gate."""
        return {**super().weights(shape, place), **self.gate_weights(shape.hidden)}

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """F(x) + s times the bottleneck of the block's input x."""
        assert block_input is not None, "the attachment keeps it for methods that read it"
        return self.add_bottleneck(bank, output, block_input, self.row_scale(bank, block_input))

    def output_scale(self) -> float:
        """S."""
        return self.scale
