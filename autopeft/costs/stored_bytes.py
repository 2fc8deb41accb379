"""Bytes of the trained weights on disk."""

from __future__ import annotations

from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._exported import OfExported
from autopeft.methods import Method


class StoredBytes(OfExported):
    """Bytes of the folded hybrid's weights in its own format, the task's head and file headers left out.

    fp32, unless a method stores fewer bits; a file has each tensor of bits in whole bytes, a layer here.

    An export as stock PEFT LoRA is larger where q, k and v are one fused map (GPT-2): each of them is as high as all.
    """

    name: ClassVar[str] = "stored_bytes"
    description: ClassVar[str] = "bytes of the exported weights, without the head; a share is of the backbone's"
    unit: ClassVar[str] = "bytes"
    short: ClassVar[str] = "bytes"
    additive: ClassVar[bool] = True

    def of_method(self, method: Method, shape: ModelShape) -> int:
        """Its bytes; as trained, where it could be folded alone, but not here."""
        return method.stored_bytes(shape) if method.exported() == method else method.unfolded_bytes(shape)

    def of_shared(self, method: Method, shape: ModelShape) -> int:
        """Bytes of what is shared."""
        return method.shared_bytes(shape) if method.exported() == method else method.unfolded_bytes(shape, once=True)

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone in fp32."""
        return 4 * shape.backbone_params
