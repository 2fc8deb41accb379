"""Products of activations and the weights of K candidates."""

from __future__ import annotations

from abc import abstractmethod

import torch


class Products:
    """A part of `Bank`. Activations come as [K*B, L, d], candidate-major."""

    sizes: list[dict[str, tuple[int, ...]]]
    scale: torch.Tensor
    _scaled: bool

    @abstractmethod
    def weight(self, name: str) -> torch.Tensor:
        """[K, ...]."""

    @abstractmethod
    def own_weight(self, name: str) -> torch.Tensor:
        """[K, ...] without padding."""

    def vector(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """One own vector a candidate [K, d] as one a sequence [K*B, 1, d], to be broadcast over `like`'s tokens."""
        return self.rows(self.own_weight(name), like)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[K*B, ..., d] viewed as [K, B*..., d]."""
        return x.reshape(len(self.sizes), -1, x.shape[-1])

    def rows(self, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """One vector a candidate [K, ...] as one a sequence [K*B, 1, ...], to be broadcast over `like`'s tokens."""
        per_candidate = like.shape[0] // len(self.sizes)
        return values.to(like.dtype).repeat_interleave(per_candidate, dim=0)[:, None]

    def compress(self, x: torch.Tensor, weight: str, bias: str | None = None) -> torch.Tensor:
        """X [K*B, L, d_in] times `weight` [K, r, d_in] (plus `bias` [K, r]): [K, B*L, r] in the dtype of x."""
        matrix = self.weight(weight).to(x.dtype).transpose(1, 2)
        if bias is None:
            return torch.bmm(self.split(x), matrix)
        return torch.baddbmm(self.weight(bias).to(x.dtype)[:, None], self.split(x), matrix)

    def add_expanded(
        self,
        output: torch.Tensor,
        x: torch.Tensor,
        weight: str,
        bias: str | None = None,
        row_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`output` [K*B, L, d] plus each candidate's scale times (X [K, B*L, r] `weight` [K, d, r] + `bias` [K, d])."""
        return self.add_product(output, x, self.weight(weight), None if bias is None else self.weight(bias), row_scale)

    def add_product(
        self,
        output: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        row_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same with any `weight` [K, d, r] and `bias` [K, d], each sequence's times its `row_scale` [K*B].

        One product into a copy of the output, as passes over [K*B, L, d] cost; scale and bias go into small factors.
        """
        matrix = weight.transpose(1, 2)
        if bias is not None:
            matrix = torch.cat([matrix, bias[:, None]], dim=1)
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
        if row_scale is not None:
            x = (x.view(len(row_scale), -1, x.shape[2]) * row_scale[:, None, None].to(x.dtype)).view(x.shape)
        if self._scaled:
            matrix = matrix * self.scale[:, None, None]
        return torch.baddbmm(self.split(output), x, matrix.to(x.dtype)).view(output.shape)

    def add_dense(self, output: torch.Tensor, x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """`output` [K*B, L, out] plus each candidate's whole `change` [K, out, in] times X [K*B, L, in]."""
        matrix = change.to(x.dtype).transpose(1, 2)
        return torch.baddbmm(self.split(output), self.split(x), matrix).view(output.shape)
