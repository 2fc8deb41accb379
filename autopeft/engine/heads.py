"""K copies of a model's head, trained side by side.

Shapes: K candidates, B examples a candidate.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


class PackedHead(nn.Module):
    """Stands in for the forward pass of one head module: candidate k's rows go through the k-th copy of its weights.

    The weights are stacked [K, ...] and start as the module's own; the module itself is not changed.
    """

    def __init__(self, module: nn.Module, candidates: int) -> None:
        super().__init__()
        self._candidates = candidates
        # Hooks and a replaced `forward` stay with the original; a list hides it from `parameters()`.
        template = copy.deepcopy(module)
        template._forward_pre_hooks.clear()
        self._template = [template.requires_grad_(False)]
        self.names = [name for name, _ in module.named_parameters()]
        self.stacked = nn.ParameterList(
            nn.Parameter(p.detach()[None].repeat(candidates, *[1] * p.dim())) for p in module.parameters()
        )

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """[K*B, ...] to [K*B, ...], candidate-major."""
        weights = dict(zip(self.names, self.stacked, strict=True))
        rows = x.reshape(self._candidates, -1, *x.shape[1:])
        called = torch.func.vmap(lambda w, r: functional_call(self._template[0], w, (r, *args), kwargs))
        outputs: torch.Tensor = called(weights, rows)
        return outputs.flatten(0, 1)
