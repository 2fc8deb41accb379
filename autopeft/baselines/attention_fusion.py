"""Attention fusion: one learned query attends over all layers' token outputs. Cao et al. 2022.

Shapes: L layers, B examples, T tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from autopeft.anatomy import ModelShape
from autopeft.baselines._side import SideBaseline, SideNetwork
from autopeft.engine.backbone import Backbone
from autopeft.errors import AutopeftError


class Fusion(SideNetwork):
    """sum over layers l and tokens t of p_lt h_lt, with p = softmax(q norm(h_lt) / sqrt(d) + b_l), at every token.

    The query q [d] and the layers' b [L + 1] start at zero: the mean of all outputs. The norm has no weights; without
    it the layer with the largest outputs would win.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(shape.hidden))
        self.bias = nn.Parameter(torch.zeros(shape.layers + 1))

    def forward(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """See `SideNetwork`."""
        shares = self.shares(states, mask)
        fused = sum(torch.einsum("bt,btd->bd", shares[:, i], state) for i, state in enumerate(states))
        assert isinstance(fused, torch.Tensor)
        return fused[:, None].expand_as(states[0])

    def shares(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """The softmax p over layers and real tokens, [B, L + 1, T]."""
        width = states[0].shape[-1]
        scores = [functional.layer_norm(state, (width,)) @ self.query / width**0.5 for state in states]
        found = torch.stack(scores, 1) + self.bias[:, None]
        found = found.masked_fill(~mask[:, None], float("-inf"))
        return found.flatten(1).softmax(1).unflatten(1, found.shape[1:])


@dataclass(frozen=True)
class AttentionFusion(SideBaseline):
    """The fused vector goes on as every token's, so it suits heads that read one token, not those that read each."""

    name: ClassVar[str] = "attention_fusion"
    description: ClassVar[str] = "a learned query attends over all layers' outputs; nothing else is trained (Cao 2022)"
    paper: ClassVar[str] = "Cao et al. 2022"
    family: ClassVar[str] = "additive"
    formula: ClassVar[str] = "d + L + 1 a model"
    usual_rate: ClassVar[float] = 3e-2

    def network(self, backbone: Backbone) -> Fusion:
        """The query for a backbone; `AutopeftError` where its head reads all tokens."""
        if backbone.readout.reads == "all":
            called = backbone.readout.called
            raise AutopeftError(f"{self.name}: gives a text one vector, and {called} need one a token; take lst")
        return Fusion(backbone.shape)
