"""LoRA: W + (alpha / r) B A. Hu et al. 2022, equation 3; rank-stabilised: Kalajdzievski 2023, equation 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import CROSS, MAPS, ModelShape
from autopeft.errors import AutopeftError, shown
from autopeft.methods._base import Kin, Method, MethodFlops
from autopeft.methods._gate import Gated, gate_option
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class LoRA(Gated):
    """Low-rank update of linear maps; A Kaiming, B = 0.

    `scale` is alpha / r. It does not change with the rank, so that ranks compare fairly; give `alpha` instead to have
    the scale alpha / r, or alpha / sqrt(r) with `rank_stabilised`. With `gated` a text's own gate scales the update,
    which then does not merge.
    """

    name: ClassVar[str] = "lora"
    description: ClassVar[str] = "low-rank update of linear maps (Hu 2022)"
    paper: ClassVar[str] = "Hu et al. 2022, equation 3"
    family: ClassVar[Kin] = "reparameterised"
    formula: ClassVar[str] = "r (in + out)"
    usual: ClassVar[Mapping[str, Any]] = {"rank": 8, "sites": ("q", "v"), "alpha": 16}
    size: ClassVar[str] = "rank"
    allowed_sites: ClassVar[tuple[str, ...]] = (*MAPS, *CROSS)
    stage: ClassVar[int] = 10
    mergeable: ClassVar[bool] = True
    adds: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    peft_type: ClassVar[str | None] = "LORA"
    unit_axes: ClassVar[Mapping[str, int] | None] = {"A": 0, "B": 1}

    rank: int
    sites: tuple[str, ...] = ("q", "v")
    scale: float = 1.0
    alpha: InitVar[float | None] = None
    rank_stabilised: InitVar[bool] = False
    gated: bool = gate_option()

    def __post_init__(self, alpha: float | None, rank_stabilised: bool) -> None:
        """Turn `alpha` into the scale; then the checks of every method."""
        super().__post_init__()
        self._check_gate(LoRA)
        if not isinstance(rank_stabilised, bool) or (rank_stabilised and alpha is None):
            raise AutopeftError(
                f"method '{self.name}': rank_stabilised is true or false and needs alpha, not {shown(rank_stabilised)}"
            )
        over = max(self.rank, 1) ** (0.5 if rank_stabilised else 1)
        scale = self.scale if alpha is None else self._check_scale(alpha, "alpha") / over
        object.__setattr__(self, "scale", self._check_scale(scale))

    @classmethod
    def option_names(cls) -> list[str]:
        """Fields, `alpha` and `rank_stabilised`; methods derived of this one have no gate."""
        names = [*super().option_names(), "alpha", "rank_stabilised"]
        return names if cls is LoRA else [name for name in names if name != "gated"]

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """A [r, in] Kaiming, B [out, r] zero; the gate."""
        wide_in, wide_out = shape.width(place)
        factors = {"A": Weight((self.rank, wide_in), "kaiming"), "B": Weight((wide_out, self.rank))}
        return factors | self.gate_weights(wide_in)

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Two thin products forward, three (four) backward."""
        wide_in, wide_out = shape.width(site)
        unit = 2 * length * self.rank
        return MethodFlops(unit * (wide_in + wide_out), unit * (2 * wide_out + wide_in), unit * wide_in)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + scale B A x."""
        rows = self.row_scale(bank, site_input)
        return bank.add_expanded(output, bank.compress(site_input, "A"), "B", row_scale=rows)

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In the singular directions of B A."""
        from autopeft.methods._singular import turned

        return turned(weights, "A", "B")

    def output_scale(self) -> float:
        """Alpha / r."""
        return self.scale

    def joined(self, methods: Sequence[Method]) -> Method:
        """LoRA of the sum of their ranks; its scale is 1, as theirs go into B."""
        return LoRA(sum(m.size_value for m in methods), self.sites)

    def join(self, methods: Sequence[Method], weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """All rows of A, and all columns of B times their scales."""
        import torch

        columns = [w["B"] * m.output_scale() for m, w in zip(methods, weights, strict=True)]
        return {"A": torch.cat([w["A"] for w in weights]), "B": torch.cat(columns, dim=1)}

    def merge(
        self, place: str, weights: Mapping[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + scale B A."""
        return weight + self.scale * weights["B"] @ weights["A"], bias
