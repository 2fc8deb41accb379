"""Ladder side-tuning: a narrow transformer beside the backbone. Sung et al. 2022, section 3.

Shapes: L layers, B examples, T tokens, d width of the backbone, w = d / r that of the ladder, f width of the backbone's
feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from autopeft.anatomy import ModelShape
from autopeft.baselines._kept import check_option
from autopeft.baselines._side import SideBaseline, SideNetwork
from autopeft.engine.backbone import Backbone
from autopeft.methods import MOST_SIZE


class Ladder(SideNetwork):
    """L narrow layers. Layer l reads g_l down_l(h_l) + (1 - g_l) s_(l-1), with g_l = sigmoid(a_l / T).

    h_l is the backbone's output of layer l, s_0 the narrowed embeddings, a_l starts at 0 and T is 0.1. The last layer's
    output is normed and widened to d.
    """

    temperature = 0.1

    def __init__(self, shape: ModelShape, reduction: int) -> None:
        super().__init__()
        heads = _heads(shape.heads, max(1, shape.hidden // reduction))
        width = max(1, shape.hidden // reduction // heads) * heads
        ffn = max(1, shape.ffn // reduction)
        self.downs = nn.ModuleList(nn.Linear(shape.hidden, width) for _ in range(shape.layers + 1))
        self.gates = nn.Parameter(torch.zeros(shape.layers))
        self.layers = nn.ModuleList(_Layer(width, heads, ffn, shape.causal) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, shape.hidden)

    def forward(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """See `SideNetwork`."""
        side = self.downs[0](states[0])
        shares = torch.sigmoid(self.gates / self.temperature)
        for share, down, layer, state in zip(shares, self.downs[1:], self.layers, states[1:], strict=True):
            side = layer(share * down(state) + (1 - share) * side, mask)
        widened: torch.Tensor = self.up(self.norm(side))
        return widened


class _Layer(nn.Module):
    """A transformer layer with norms before attention and feed-forward network."""

    def __init__(self, width: int, heads: int, ffn: int, causal: bool) -> None:
        super().__init__()
        self._heads, self._causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.into, self.back = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        length = mask.shape[1]
        seen = mask[:, None, None, :].expand(-1, 1, length, -1)
        if self._causal:
            seen = seen & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        # A token always sees itself: a row without any would be no number, also for the real tokens' gradients.
        seen = seen | torch.eye(length, dtype=torch.bool, device=mask.device)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        wide: torch.Tensor = x + self.back(functional.gelu(self.into(self.norm2(x))))
        return wide


@dataclass(frozen=True)
class LST(SideBaseline):
    """`reduction` is r. The ladder is drawn at random; the paper's start from a pruned backbone is left out."""

    name: ClassVar[str] = "lst"
    description: ClassVar[str] = "a narrow ladder beside the backbone; no gradient through the backbone (Sung 2022)"
    paper: ClassVar[str] = "Sung et al. 2022, section 3"
    family: ClassVar[str] = "additive"
    formula: ClassVar[str] = "about 4 w^2 + 2 w f / r + d w a layer, w = d / r"
    usual_rate: ClassVar[float] = 3e-3

    reduction: int = 8

    def __post_init__(self) -> None:
        check_option(self, "reduction", 1, MOST_SIZE)

    def network(self, backbone: Backbone) -> Ladder:
        """The ladder for a backbone."""
        return Ladder(backbone.shape, self.reduction)


def _heads(heads: int, width: int) -> int:
    """The largest number of heads, of at most the backbone's, that divides both its number and the width."""
    return math.gcd(heads, width)
