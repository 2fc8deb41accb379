"""A linear map in 4 bits on a uniform grid: w = scale (q - zero), one scale and zero point a group of inputs.

Xu et al. 2023 (QA-LoRA), section 3.2; rounded to the nearest, between the smallest and the largest weight of a group.

Shapes: m outputs, n inputs, g inputs a group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from autopeft.quantising import group_of

_MOST = 15


class UniformLinear(nn.Module):
    """Stands in for a frozen linear map. `zeros` are fp32, so that an update which is one number a group fits in.

    `weight` is [m, n / 2] uint8, two integers a byte; `scales` and `zeros` are [m, n / g].
    """

    bias: nn.Parameter | None
    scales: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.group = group_of(self.in_features)
        groups = weight.detach().float().unflatten(1, (-1, self.group))
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scales = ((high - low) / _MOST).clamp(min=torch.finfo(torch.float32).tiny)
        zeros = (-low / scales).round()
        integers = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, _MOST).to(torch.uint8).flatten(1)
        self.weight = nn.Parameter(integers[:, ::2] | integers[:, 1::2] << 4, requires_grad=False)
        self.register_parameter("bias", bias)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)

    def integers(self) -> torch.Tensor:
        """[m, n], from 0 to 15."""
        return torch.stack([self.weight & 15, self.weight >> 4], -1).flatten(1)

    def dequantised(self) -> torch.Tensor:
        """The weight [m, n] that it computes with, fp32."""
        groups = self.integers().float().unflatten(1, (-1, self.group))
        return ((groups - self.zeros[..., None]) * self.scales[..., None]).flatten(1)

    def shift(self, change: torch.Tensor) -> None:
        """Add `change` [m, n / g] to the weights of each group: exact, as only the zero points move."""
        self.zeros = self.zeros - change / self.scales

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., n] to [..., m], in the data type of `x`."""
        output: torch.Tensor = _Product.apply(x, self)
        return output

    def extra_repr(self) -> str:
        """As linear maps say it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, group={self.group}"


class _Product(torch.autograd.Function):
    """Keeps the packed weights for the backward pass, not the dequantised ones: they would be the fp32 backbone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: UniformLinear) -> torch.Tensor:
        """The map's output."""
        ctx.module = module
        bias = None if module.bias is None else module.bias.to(x.dtype)
        return linear(x, module.dequantised().to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of the input; the map is frozen."""
        return gradients[0] @ ctx.module.dequantised().to(gradients[0].dtype), None
