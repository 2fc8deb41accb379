"""LoRA: W + (alpha / r) B A. Hu et al. 2022, equation 3."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import SITES, ModelShape
from autopeft.methods._base import Method, MethodFlops

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank update of linear maps; A Kaiming, B = 0.

    `scale` is alpha / r. It does not change with the rank, so that ranks compare fairly; give `alpha` instead to have
    the scale alpha / r.
    """

    name: ClassVar[str] = "lora"
    description: ClassVar[str] = "low-rank update of q, k, v, o, ffn up, ffn down (Hu 2022)"
    size: ClassVar[str] = "rank"
    allowed_sites: ClassVar[tuple[str, ...]] = SITES
    stage: ClassVar[int] = 10
    mergeable: ClassVar[bool] = True

    rank: int
    sites: tuple[str, ...] = ("q", "v")
    scale: float = 1.0
    alpha: InitVar[float | None] = None

    def __post_init__(self, alpha: float | None) -> None:
        """Turn `alpha` into the scale; then the checks of every method."""
        super().__post_init__()
        scale = self.scale if alpha is None else self._check_scale(alpha) / max(self.rank, 1)
        object.__setattr__(self, "scale", self._check_scale(scale))

    @classmethod
    def option_names(cls) -> list[str]:
        """Fields and `alpha`."""
        return [*super().option_names(), "alpha"]

    def site_params(self, shape: ModelShape, site: str) -> int:
        """R (in + out)."""
        return self.rank * sum(shape.sites[site])

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Two thin products forward, three (four) backward."""
        wide_in, wide_out = shape.sites[site]
        unit = 2 * length * self.rank
        return MethodFlops(unit * (wide_in + wide_out), unit * (2 * wide_out + wide_in), unit * wide_in)

    def init(self, shape: ModelShape, site: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """A [r, in] Kaiming, B [out, r] zero."""
        import torch

        from autopeft.methods._bank import kaiming

        wide_in, wide_out = shape.sites[site]
        return {"A": kaiming(self.rank, wide_in, generator), "B": torch.zeros(wide_out, self.rank)}

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + scale B A x."""
        return bank.add_expanded(output, bank.compress(site_input, "A"), "B")

    def output_scale(self) -> float:
        """Alpha / r."""
        return self.scale
