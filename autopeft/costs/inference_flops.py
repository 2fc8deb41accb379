"""FLOPs of one prediction."""

from __future__ import annotations

from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.costs._flops import forward_flops
from autopeft.hybrid import Hybrid


class InferenceFlops(Cost):
    """Matrix-multiplication FLOPs of a forward pass per example, after merging what merges.

    LoRA then costs nothing; an adapter or a prefix does.
    """

    name: ClassVar[str] = "inference_flops"
    description: ClassVar[str] = "FLOPs of a forward pass per example, after merging; a share is of the bare backbone's"
    unit: ClassVar[str] = "FLOPs per example"
    short: ClassVar[str] = "infer FLOPs"
    additive: ClassVar[bool] = True
    by_tokens: ClassVar[bool] = True

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The sum over layers, of the text and the vectors that are put to it."""
        hybrid.check(shape)
        length += hybrid.input_tokens
        return sum(forward_flops(methods, shape, length, merged=True) for methods in hybrid.layers)

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone without methods."""
        return shape.layers * forward_flops((), shape, length, merged=True)
