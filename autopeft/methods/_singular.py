"""Products of thin matrices in their singular directions.

Shapes: r directions, [..., r, in] and [..., out, r].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Singular values below this share of the largest are rounding: their directions do nothing.
_NOTHING = 1e-10


def singular(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U [..., out, r], s [..., r] (largest first) and V [..., r, in] with U diag(s) V = B A; zeros beyond the rank.

    By QR of both factors, so that nothing of the size of B A is decomposed; in double precision, as fp32.
    """
    import torch
    from torch.nn import functional

    rank = a.shape[-2]
    left, upper = torch.linalg.qr(b.double())
    right, lower = torch.linalg.qr(a.double().mT)
    u, s, v = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
    more = rank - s.shape[-1]
    u, s, v = left @ u, s, v @ right.mT
    padded = functional.pad(u, (0, more)), functional.pad(s, (0, more)), functional.pad(v, (0, 0, 0, more))
    return padded[0].float().contiguous(), padded[1].float(), padded[2].float().contiguous()


def balanced(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of the same product, in its singular directions, largest first; each takes the square root of the values.

    Where a direction has no value B is zero and A has the length that its rows had, as at the start of a training: with
    zeros in both it could not be trained.
    """
    import torch

    u, s, v = singular(a, b)
    nothing = s <= _NOTHING * s.amax(-1, keepdim=True)
    root = s.sqrt()
    lengths = a.float().norm(dim=-1).mean(-1, keepdim=True).expand(root.shape)
    return torch.where(nothing, lengths, root)[..., None] * v, u * torch.where(nothing, 0, root)[..., None, :]


def turned(weights: Mapping[str, torch.Tensor], a: str, b: str) -> dict[str, torch.Tensor]:
    """All weights, with those of these names `balanced`."""
    found = balanced(weights[a], weights[b])
    return {**weights, a: found[0], b: found[1]}
