"""LoftQ: quantised weights and low-rank factors that start together near the fp32 weights.

Li et al. 2023 (arXiv 2310.08659), algorithm 1: in turns Q = q(W - B A), and B A = the best of rank r for W - Q.

Shapes: a map has m outputs and n inputs; fused maps have m_i of the outputs each.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autopeft.anatomy import Rows
from autopeft.quantising.weights import dequantised, requantise

#: Rounds that the paper takes.
ROUNDS = 5
#: A [r, n] and B [m_i, r] by the rows.
Factors = dict[Rows, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def loftq(module: nn.Module, weight: torch.Tensor, ranks: Mapping[Rows, int]) -> tuple[Factors, list[float]]:
    """Requantise a map of 4 bits in place, and give the factors to begin with at its rows.

    `weight` [m, n] is the checkpoint's, `ranks` the rank by rows. Also the residual |W - Q - B A| / |W| after each
    round, with that of quantising alone before them: it falls, by less and less.
    """
    factors: Factors = {}
    residuals = []
    requantise(module, weight)
    residuals.append(_residual(weight, module, factors))
    for _ in range(ROUNDS):
        requantise(module, weight - low_rank(factors, weight))
        rest = weight - dequantised(module)
        factors = {rows: _best(rows.of(rest), rank) for rows, rank in ranks.items()}
        residuals.append(_residual(weight, module, factors))
    return factors, residuals


def low_rank(factors: Factors, like: torch.Tensor) -> torch.Tensor:
    """B A [m, n] of all rows, zero where there is none."""
    whole = torch.zeros_like(like)
    for rows, (a, b) in factors.items():
        whole += rows.spread(b @ a)
    return whole


def _best(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with the singular values in equal parts."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def _residual(weight: torch.Tensor, module: nn.Module, factors: Factors) -> float:
    rest = weight - dequantised(module) - low_rank(factors, weight)
    return float(rest.norm() / weight.norm())
