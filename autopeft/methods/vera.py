"""VeRA: frozen random matrices for all layers, trained vectors between them. Kopiczko et al. 2024, eq. 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


@dataclass(frozen=True)
class VeRA(LoRA):
    """W + diag(b) B diag(d) A with A and B drawn once a model and frozen; b = 0, d = 0.1."""

    name: ClassVar[str] = "vera"
    description: ClassVar[str] = "vectors between frozen random matrices (VeRA, Kopiczko 2024)"
    paper: ClassVar[str] = "Kopiczko et al. 2024, equation 2"
    formula: ClassVar[str] = "r + out"
    usual_rate: ClassVar[float] = 0.02
    usual: ClassVar[Mapping[str, Any]] = {"rank": 256, "sites": ("q", "v")}
    stage: ClassVar[int] = 12
    # Its rows of A and B are other layers' too.
    unit_axes: ClassVar[Mapping[str, int] | None] = {}
    exports_folded: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = "VERA"

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """Vectors d [r] and b [out]."""
        return {"d": Weight((self.rank,), _tenth), "b": Weight((shape.width(place)[1],))}

    def shared(self, shape: ModelShape) -> Mapping[str, Weight]:
        """A [r, widest in] and B [widest out, r], frozen: each map takes its leading part."""
        widths = [shape.width(site) for site in self.allowed_sites if shape.has(site)]
        wide_in, wide_out = (max(w) for w in zip(*widths, strict=True))
        return {
            "A": Weight((self.rank, wide_in), "kaiming", kind="frozen"),
            "B": Weight((wide_out, self.rank), _kaiming_rows, kind="frozen"),
        }

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Output + b * B (d * A x)."""
        a, b = _leading(bank.shared_weight("A"), bank.shared_weight("B"), bank, site_input, output)
        # The largest layer's A and B have entries where a smaller one's d is padded.
        d = bank.own_weight("d")
        return bank.add_product(
            output,
            bank.split(site_input) @ (a * d[..., None]).to(site_input.dtype).transpose(1, 2),
            b * bank.weight("b")[..., None],
        )

    def canonical(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Themselves."""
        return dict(weights)

    def folded(self) -> Method:
        """LoRA of the same rank."""
        return LoRA(self.rank, self.sites, self.scale)

    def fold(
        self, shape: ModelShape, place: str, weights: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """A's rows times d, B's rows times b."""
        wide_in, wide_out = shape.width(place)
        a, b = shared["A"][: self.rank, :wide_in], shared["B"][:wide_out, : self.rank]
        return {"A": a * weights["d"][:, None], "B": b * weights["b"][:, None]}


def _leading(
    a: torch.Tensor, b: torch.Tensor, bank: Bank, site_input: torch.Tensor, output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    rank = bank.weight("d").shape[1]
    return a[:, :rank, : site_input.shape[-1]], b[:, : output.shape[-1], :rank]


def _tenth(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.full(shape, 0.1)


def _kaiming_rows(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Column by column, so that a smaller rank takes the first of a larger one's; uniform in +-sqrt(3 / out)."""
    import torch

    bound = (3 / shape[0]) ** 0.5
    return (torch.rand(shape[::-1], generator=generator) * (2 * bound) - bound).T.contiguous()
