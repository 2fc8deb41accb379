"""The loss that is trained: cross entropy, or mean squared error for regression."""

from __future__ import annotations

import torch
from torch.nn import functional


def loss_of(outputs: torch.Tensor, labels: torch.Tensor, regression: bool) -> torch.Tensor:
    """Mean losses [K] of K candidates' outputs [K, B, C] (or predictions [K, B, 1]) on the same labels [B], in fp32."""
    outputs, labels = outputs.float(), labels.expand(len(outputs), -1)
    if regression:
        return functional.mse_loss(outputs.squeeze(-1), labels, reduction="none").mean(1)
    return functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none").mean(1)
