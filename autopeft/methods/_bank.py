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

    def low_rank(self, x: torch.Tensor, down: str, up: str) -> torch.Tensor:
        """X [K, N, d_in] through `down` [K, r, d_in] and `up` [K, d_out, r]: [K, N, d_out] in the dtype of x."""
        return self.bmm(self.bmm(x, down), up)

    def bmm(self, x: torch.Tensor, weight: str, bias: str | None = None) -> torch.Tensor:
        """X [K, N, d_in] times `weight` [K, d_out, d_in] (plus `bias` [K, d_out]): [K, N, d_out] in the dtype of x."""
        matrix = getattr(self, weight).to(x.dtype).transpose(1, 2)
        if bias is None:
            return torch.bmm(x, matrix)
        return torch.baddbmm(getattr(self, bias).to(x.dtype)[:, None], x, matrix)

    def add(self, output: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """`output` plus `delta` [K, N, d] times each candidate's scale."""
        if self._scaled:
            delta = delta * self.scale.to(delta.dtype)[:, None, None]
        return output + delta.view(output.shape)

    def weights(self, candidate: int) -> dict[str, torch.Tensor]:
        """One candidate's weights at their own sizes, views without padding; empty when it lacks the method."""
        sizes = self.sizes[candidate]
        return {name: _corner(getattr(self, name)[candidate], size) for name, size in sizes.items()}


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
            _corner(stacked[k], tensor.shape).copy_(tensor)
    return stacked


def _corner(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The view of the first `sizes` rows, columns, ... of a tensor."""
    for dim, size in enumerate(sizes):
        tensor = tensor.narrow(dim, 0, size)
    return tensor


def kaiming(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, columns], uniform in +-1/sqrt(columns): Kaiming's with a = sqrt(5), as LoRA and nn.Linear draw it."""
    bound = columns**-0.5
    return torch.rand(rows, columns, generator=generator) * (2 * bound) - bound
