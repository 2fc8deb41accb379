"""Hybrids with weights far from their first values, on tiny models, and what they give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tiny_models import classifier, perturb, right_padded

from autopeft.attaching import Attachment
from autopeft.hybrid import Hybrid

FAMILIES = ["bert", "llama", "gpt2"]
MODELS = {family: classifier(family) for family in FAMILIES}
INPUTS = {family: right_padded(model, (7, 4, 1)) for family, model in MODELS.items()}


def trained(family: str, hybrid: Hybrid) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Weights far from their first values, and the logits that they give."""
    with Attachment(MODELS[family], hybrid) as attached, torch.no_grad():
        perturb(attached.banks)
        weights = {name: w.clone() for name, w in attached.banks.weights().items()}
        return weights, MODELS[family](**INPUTS[family]).logits


def logits(family: str, hybrid: Hybrid, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    with Attachment(MODELS[family], hybrid) as attached, torch.no_grad():
        attached.banks.load(weights)
        return MODELS[family](**INPUTS[family]).logits
