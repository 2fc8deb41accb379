"""Bytes of the trained weights on disk."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.hybrid import Hybrid


class StoredBytes(Cost):
    """Bytes of the folded hybrid's weights in its own format, the task's head and file headers left out.

    fp32, unless a method stores fewer bits; a file has each tensor of bits in whole bytes, a layer here.

    An export as stock PEFT LoRA is larger where q, k and v are one fused map (GPT-2): each of them is as high as all.
    """

    name: ClassVar[str] = "stored_bytes"
    description: ClassVar[str] = "bytes of the exported weights, without the head; a share is of the backbone's"
    unit: ClassVar[str] = "bytes"
    additive: ClassVar[bool] = True

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The sum over layers of what each method stores, and what is shared."""
        hybrid.check(shape)
        own = sum(m.stored_bytes(shape) for m in hybrid.methods())
        return own + sum(self.once(hybrid, shape).values())

    def once(self, hybrid: Hybrid, shape: ModelShape) -> Mapping[Hashable, int]:
        """Shared weights of the methods as exported."""
        return {(m.name, m.bank_options()): m.shared_bytes(shape) for m in hybrid.sharing(shape)}

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone in fp32."""
        return 4 * shape.backbone_params
