"""Parallel adapter around the FFN. He et al. 2022, table 1 and section 4.6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopeft.methods._adapter import Bottleneck
from autopeft.methods._base import Kin

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class Parallel(Bottleneck):
    """F(x) + s (W_up g(W_down x + b) + b), with x the input of the feed-forward network F."""

    name: ClassVar[str] = "parallel"
    description: ClassVar[str] = "scaled bottleneck adapter beside the FFN (He 2022)"
    paper: ClassVar[str] = "He et al. 2022, table 1"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2dr + r + d"
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

    def __post_init__(self) -> None:
        """Check the scale too."""
        super().__post_init__()
        object.__setattr__(self, "scale", self._check_scale(self.scale))

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """F(x) + s times the bottleneck of the block's input x."""
        assert block_input is not None, "the attachment keeps it for methods that read it"
        return self.add_bottleneck(bank, output, block_input)

    def output_scale(self) -> float:
        """S."""
        return self.scale
