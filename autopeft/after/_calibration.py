"""How well a classifier's probabilities fit what happens. Shapes: N examples, C classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error, mean negative log likelihood and accuracy on one split."""

    ece: float
    nll: float
    accuracy: float

    @classmethod
    def of(cls, probabilities: torch.Tensor, labels: torch.Tensor) -> Calibration:
        """Of probabilities [N, C] and class numbers [N]."""
        own = probabilities.gather(1, labels[:, None]).clamp_min(1e-12)
        right = (probabilities.argmax(1) == labels).double().mean()
        return cls(expected_calibration_error(probabilities, labels), float(-own.log().mean()), float(right))


def expected_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Sum over bins of (share of examples) |accuracy - mean confidence|. Guo et al. 2017, equation 3.

    Bins are (0, 1/bins], (1/bins, 2/bins], ... of the largest probability.
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    number = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = torch.zeros(bins, dtype=torch.double).index_add_(0, number, right - confidence)
    return float(gaps.abs().sum() / len(labels))
