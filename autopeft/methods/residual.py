"""Residual adapter after a layer, with a norm of its own. Lin et al. 2020, figure 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autopeft.anatomy import ModelShape
from autopeft.methods._adapter import Bottleneck
from autopeft.methods._base import Kin, MethodFlops
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank


#: What keeps the norm of a constant vector finite, as in BERT.
_EPSILON = 1e-12


@dataclass(frozen=True)
class Residual(Bottleneck):
    """x + W_up g(W_down LN(x) + b) + b on the output x of a layer."""

    name: ClassVar[str] = "residual"
    description: ClassVar[str] = "bottleneck adapter with its own norm after each layer (Lin 2020)"
    paper: ClassVar[str] = "Lin et al. 2020, figure 1"
    family: ClassVar[Kin] = "additive"
    formula: ClassVar[str] = "2dr + r + 3d"
    usual: ClassVar[Mapping[str, Any]] = {"bottleneck": 48}
    size: ClassVar[str] = "bottleneck"
    allowed_sites: ClassVar[tuple[str, ...]] = ("layer",)
    stage: ClassVar[int] = 40
    reads: ClassVar[Literal["site", "block", "output"]] = "output"

    bottleneck: int
    sites: tuple[str, ...] = ("layer",)
    activation: str = "relu"

    def weights(self, shape: ModelShape, place: str) -> Mapping[str, Weight]:
        """The bottleneck's, and gain and bias of the norm [d]."""
        d = shape.hidden
        return {**super().weights(shape, place), "gain": Weight((d,), "ones"), "shift": Weight((d,))}

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """The bottleneck's; its norm is trained, so the gradient always flows on below W_down."""
        own = super().flops(shape, site, length)
        return MethodFlops(own.forward, own.backward + own.backward_input, 0)

    def apply(
        self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None
    ) -> torch.Tensor:
        """X + the bottleneck of LN(x)."""
        from torch.nn import functional

        normed = functional.layer_norm(output.float(), output.shape[-1:], eps=_EPSILON).to(output.dtype)
        normed = normed * bank.vector("gain", output) + bank.vector("shift", output)
        return self.add_bottleneck(bank, output, normed)
