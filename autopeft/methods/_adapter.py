"""What sequential and parallel adapters share: down, non-linearity, up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

#: All map 0 to 0, which zero padding needs.
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


class Bottleneck(Method):
    """W_up g(W_down x + b) + b, with bottleneck r: 2dr + r + d parameters."""

    unit_axes: ClassVar[Mapping[str, int] | None] = {"down": 0, "down_bias": 0, "up": 1}

    bottleneck: int
    activation: str

    def __post_init__(self) -> None:
        """Check the activation too."""
        super().__post_init__()
        self._check_choice("activation", ACTIVATIONS)

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """W_down [r, d] Kaiming; W_up [d, r] and both biases zero, so that training starts from the backbone."""
        r, d = self.bottleneck, shape.hidden
        return {
            "down": Weight((r, d), "kaiming"),
            "down_bias": Weight((r,)),
            "up": Weight((d, r)),
            "up_bias": Weight((d,)),
        }

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Two thin products forward, three (four) backward; the bias of the second is one more row of it."""
        unit, r = 2 * length * shape.hidden, self.bottleneck
        down, up = unit * r, unit * (r + 1)
        return MethodFlops(down + up, down + 2 * up, down)

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has one non-linearity."""
        return (("activation", self.activation),)

    def add_bottleneck(
        self,
        bank: Bank,
        output: torch.Tensor,
        x: torch.Tensor,
        row_scale: torch.Tensor | None = None,
        **made: torch.Tensor,
    ) -> torch.Tensor:
        """`output` [K*B, L, d] + scale (W_up g(W_down x + b) + b) of x [K*B, L, d], each sequence's times `row_scale`.

        `made` are weights [K, ...] that the method computes, in the place of the bank's own of these names.
        """
        import torch
        from torch.nn import functional

        down, bias, up, up_bias = (
            made[name] if name in made else bank.weight(name) for name in ("down", "down_bias", "up", "up_bias")
        )
        inner = torch.baddbmm(bias.to(x.dtype)[:, None], bank.split(x), down.to(x.dtype).transpose(1, 2))
        return bank.add_product(output, getattr(functional, self.activation)(inner), up, up_bias, row_scale)
