"""LoftQ: quantised weights and low-rank factors that start together near the fp32 weights.

Li et al. 2023 (arXiv 2310.08659), algorithm 1: in turns Q = q(W - B A), and B A = the best of rank r for W - Q.

Shapes: a map has m outputs and n inputs, or is `parts` equal slices of outputs [m / parts, n].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autopeft.quantising.weights import dequantised, requantise

#: Rounds that the paper takes.
ROUNDS = 5
#: A [r, n] and B [m / parts, r] by the slice.
Factors = dict[int, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def loftq(
    module: nn.Module, weight: torch.Tensor, ranks: Mapping[int, int], parts: int = 1, rounds: int = ROUNDS
) -> tuple[Factors, list[float]]:
    """Requantise a map of 4 bits in place, and give the factors to begin with at its slices.

    `weight` [m, n] is the checkpoint's, `ranks` the rank by slice. Also the residual |W - Q - B A| / |W| after each
    round, with that of quantising alone before them: it falls, by less and less.
    """
    factors: Factors = {}
    residuals = []
    requantise(module, weight)
    residuals.append(_residual(weight, module, factors, parts))
    for _ in range(rounds):
        requantise(module, weight - low_rank(factors, weight, parts))
        rest = (weight - dequantised(module)).chunk(parts)
        factors = {index: _best(rest[index], rank) for index, rank in ranks.items()}
        residuals.append(_residual(weight, module, factors, parts))
    return factors, residuals


def low_rank(factors: Factors, like: torch.Tensor, parts: int) -> torch.Tensor:
    """B A [m, n] of all slices, zero where there is none."""
    whole = torch.zeros_like(like)
    slices = whole.chunk(parts)
    for index, (a, b) in factors.items():
        slices[index].copy_(b @ a)
    return whole


def _best(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with the singular values in equal parts."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def _residual(weight: torch.Tensor, module: nn.Module, factors: Factors, parts: int) -> float:
    rest = weight - dequantised(module) - low_rank(factors, weight, parts)
    return float(rest.norm() / weight.norm())
