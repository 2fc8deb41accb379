"""FLOPs of one training step for one example."""

from __future__ import annotations

from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.costs._flops import asked_tokens, bare_flops, head_flops, training_flops
from autopeft.hybrid import Hybrid


class TrainingFlops(Cost):
    """Matrix-multiplication FLOPs of forward and backward per example, in the layers and a language model's head."""

    name: ClassVar[str] = "training_flops"
    description: ClassVar[str] = "FLOPs of a training step per example; a share is of full fine-tuning's"
    unit: ClassVar[str] = "FLOPs per example"
    short: ClassVar[str] = "train FLOPs"

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """Forward through all layers, backward down to the lowest trained one."""
        hybrid.check(shape)
        head = head_flops(shape, asked_tokens(shape, length)) * (1 if hybrid.is_empty else 2)
        return training_flops(hybrid, shape, length) + head

    def reference(self, shape: ModelShape, length: int) -> int:
        """Full fine-tuning: backward is twice the forward."""
        return 3 * (bare_flops(shape, length) + head_flops(shape, asked_tokens(shape, length)))
