"""FLOPs of one prediction."""

from __future__ import annotations

from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.costs._flops import answer_flops, asked_tokens, forward_flops, generation_flops, head_flops
from autopeft.hybrid import Hybrid


class InferenceFlops(Cost):
    """Matrix-multiplication FLOPs of a forward pass per example, after merging what merges.

    LoRA then costs nothing; an adapter or a prefix does. Of a language model: of reading a prompt of half the length,
    and generating the other half; with an encoder, of reading a text of the length, and generating one.
    """

    name: ClassVar[str] = "inference_flops"
    description: ClassVar[str] = "FLOPs of a prediction (or answer), after merging; a share is of the bare backbone's"
    unit: ClassVar[str] = "FLOPs per example"
    short: ClassVar[str] = "infer FLOPs"
    additive: ClassVar[bool] = True
    by_tokens: ClassVar[bool] = True

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The sum over layers, of the text and the vectors that are put to it."""
        hybrid.check(shape)
        if shape.stacks:
            return answer_flops(hybrid.layers, shape, length, length)
        if shape.words and shape.causal:
            generated = max(1, length // 2)
            return generation_flops(hybrid.layers, shape, length - length // 2 + hybrid.input_tokens, generated)
        head = head_flops(shape, asked_tokens(shape, length))
        length += hybrid.input_tokens
        return sum(forward_flops(methods, shape, length, merged=True) for methods in hybrid.layers) + head

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone without methods."""
        return self.of(Hybrid.uniform(shape.layers), shape, length)
