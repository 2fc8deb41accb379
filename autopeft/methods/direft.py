"""DiReFT: a low-rank edit of a layer's output. Wu et al. 2024 (ReFT), section 3.2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class DiReFT(Method):
    """h + W_2 (W_1 h + b) on the output h of a layer, at every token; W_2 starts at zero.

    The paper edits some positions only; there is no non-linearity, which tells it from a residual adapter.
    """

    name: ClassVar[str] = "direft"
    description: ClassVar[str] = "low-rank edit of each layer's output (DiReFT, Wu 2024)"
    paper: ClassVar[str] = "Wu et al. 2024 (ReFT), section 3.2"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2dr + r"
    usual: ClassVar[Mapping[str, Any]] = {"rank": 8}
    size: ClassVar[str] = "rank"
    allowed_sites: ClassVar[tuple[str, ...]] = ("layer",)
    stage: ClassVar[int] = 45
    reads: ClassVar[Literal["site", "block", "output"]] = "output"
    unit_axes: ClassVar[Mapping[str, int] | None] = {"down": 0, "down_bias": 0, "up": 1}

    rank: int
    sites: tuple[str, ...] = ("layer",)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """W_1 [r, d] Kaiming, b [r] and W_2 [d, r] zero."""
        r, d = self.rank, shape.hidden
        return {"down": Weight((r, d), "kaiming"), "down_bias": Weight((r,)), "up": Weight((d, r))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Two thin products forward, three (four) backward."""
        thin = 2 * length * shape.hidden * self.rank
        return MethodFlops(2 * thin, 3 * thin, thin)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """H + W_2 (W_1 h + b)."""
        return bank.add_expanded(output, bank.compress(output, "down", "down_bias"), "up")

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In the singular directions of W_2 [W_1 b]."""
        import torch

        from autopeft.methods._singular import balanced

        down, up = balanced(torch.cat([weights["down"], weights["down_bias"][:, None]], dim=1), weights["up"])
        return {"down": down[:, :-1].contiguous(), "down_bias": down[:, -1].contiguous(), "up": up}
