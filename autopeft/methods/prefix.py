"""Prefix tuning: K <- [P_k; K], V <- [P_v; V]. Li and Liang 2021, equation 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method, MethodFlops

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prefix(Method):
    """`length` learned keys and values in a layer's attention (flat, without a re-parameterising MLP)."""

    name: ClassVar[str] = "prefix"
    description: ClassVar[str] = "learned keys and values in each attention (Li and Liang 2021)"
    size: ClassVar[str] = "length"
    allowed_sites: ClassVar[tuple[str, ...]] = ("attention",)
    stage: ClassVar[int] = 0
    zero_init: ClassVar[bool] = False

    length: int
    sites: tuple[str, ...] = ("attention",)

    def site_params(self, shape: ModelShape, site: str) -> int:
        """2 l (key / value heads x head width): 2ld in multi-head attention."""
        return 2 * self.length * shape.kv_heads * shape.head_dim

    def flops(self, shape: ModelShape, site: str, length: int) -> MethodFlops:
        """Nothing of its own: its columns cost in the layer's attention (see `attention_columns`)."""
        return MethodFlops(0, 0, 0)

    def attention_columns(self) -> int:
        """One a learned position."""
        return self.length

    def init(self, shape: ModelShape, site: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Keys and values [l, key/value heads, head width], normal with standard deviation 0.02."""
        import torch

        size = (self.length, shape.kv_heads, shape.head_dim)
        return {
            "key": torch.randn(size, generator=generator) * 0.02,
            "value": torch.randn(size, generator=generator) * 0.02,
        }
