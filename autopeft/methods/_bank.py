"""Banks: K candidates' weights of one method at one site, trained as one module.

Shapes: K candidates, B examples a candidate, L tokens, d width. Activations come as [K*B, L, d], candidate-major; a
bank views them as [K, B*L, d] and one `bmm` serves all. A single model is K = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from autopeft.anatomy import ModelShape
from autopeft.methods._base import Method


class Bank(nn.Module):
    """The weights of K methods of one kind at one site, zero-padded to the largest.

    `scale` [K] is 0 for a candidate that lacks the method, so its output and its gradients are exactly 0. Padded rows
    and columns get zero gradients and stay zero: there is no mask to keep. `own_columns` [K, l] says which attention
    columns are each candidate's own; None when all have as many.
    """

    scale: torch.Tensor
    own_columns: torch.Tensor | None

    def __init__(
        self,
        methods: Sequence[Method | None],
        shape: ModelShape,
        site: str,
        generators: Sequence[torch.Generator],
    ) -> None:
        super().__init__()
        self.site = site
        self.columns = [m.attention_columns() if m else 0 for m in methods]
        drawn = [m.init(shape, site, g) if m else None for m, g in zip(methods, generators, strict=True)]
        self.method = next(m for m in methods if m is not None)
        scales = [m.output_scale() if m else 0.0 for m in methods]
        self.register_buffer("scale", torch.tensor(scales), persistent=False)
        self._scaled = any(scale != 1 for scale in scales)
        self.register_buffer("own_columns", _own_columns(self.columns), persistent=False)
        self.sizes = [{name: tuple(t.shape) for name, t in d.items()} if d else {} for d in drawn]
        for name in next(d for d in drawn if d is not None):
            self.register_parameter(name, nn.Parameter(_stack([d[name] if d else None for d in drawn])))

    def forward(self, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None) -> torch.Tensor:
        """The site's output [K*B, L, out] with the method applied to it."""
        return self.method.apply(self, output, site_input, block_input)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[K*B, ..., d] viewed as [K, B*..., d]."""
        return x.reshape(len(self.sizes), -1, x.shape[-1])

    def compress(self, x: torch.Tensor, weight: str, bias: str | None = None) -> torch.Tensor:
        """X [K*B, L, d_in] times `weight` [K, r, d_in] (plus `bias` [K, r]): [K, B*L, r] in the dtype of x."""
        matrix = getattr(self, weight).to(x.dtype).transpose(1, 2)
        if bias is None:
            return torch.bmm(self.split(x), matrix)
        return torch.baddbmm(getattr(self, bias).to(x.dtype)[:, None], self.split(x), matrix)

    def add_expanded(self, output: torch.Tensor, x: torch.Tensor, weight: str, bias: str | None = None) -> torch.Tensor:
        """`output` [K*B, L, d] plus each candidate's scale times (X [K, B*L, r] `weight` [K, d, r] + `bias` [K, d]).

        One product that adds into a copy of the output: passes over [K*B, L, d] are what a bank costs, so the scale and
        the bias go into the small factors.
        """
        matrix = getattr(self, weight).transpose(1, 2)
        if bias is not None:
            matrix = torch.cat([matrix, getattr(self, bias)[:, None]], dim=1)
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
        if self._scaled:
            matrix = matrix * self.scale[:, None, None]
        return torch.baddbmm(self.split(output), x, matrix.to(x.dtype)).view(output.shape)

    def corners(self, candidate: int) -> dict[str, tuple[int | slice, ...]]:
        """By weight, where one candidate's own part of it lies; empty when it lacks the method."""
        own = self.sizes[candidate] if candidate < len(self.sizes) else {}
        return {name: (candidate, *(slice(0, n) for n in size)) for name, size in own.items()}


def _own_columns(columns: Sequence[int]) -> torch.Tensor | None:
    if min(columns) == max(columns):
        return None
    return torch.arange(max(columns))[None] < torch.tensor(columns)[:, None]


def _stack(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Tensors of one rank but several sizes as one [K, ...], zero-padded; zeros for what is missing."""
    widest = [max(sizes) for sizes in zip(*(t.shape for t in tensors if t is not None), strict=True)]
    stacked = torch.zeros(len(tensors), *widest)
    for k, tensor in enumerate(tensors):
        if tensor is not None:
            stacked[k][tuple(slice(0, n) for n in tensor.shape)] = tensor
    return stacked


def kaiming(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, columns], uniform in +-1/sqrt(columns): Kaiming's with a = sqrt(5), as LoRA and nn.Linear draw it."""
    bound = columns**-0.5
    return torch.rand(rows, columns, generator=generator) * (2 * bound) - bound
