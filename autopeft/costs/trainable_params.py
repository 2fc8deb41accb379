"""Trainable parameters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.hybrid import Hybrid


class TrainableParams(Cost):
    """Parameters that training changes, the task's head left out: of a masked weight the entries of its mask."""

    name: ClassVar[str] = "trainable_params"
    description: ClassVar[str] = "parameters that are trained, without the head; a share is of the backbone's"
    unit: ClassVar[str] = "parameters"
    short: ClassVar[str] = "params"
    additive: ClassVar[bool] = True

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The sum over layers and sites, and what is shared."""
        return hybrid.num_params(shape)

    def once(self, hybrid: Hybrid, shape: ModelShape) -> Mapping[Hashable, int]:
        """Shared weights."""
        return {(m.name, m.bank_options()): m.shared_params(shape) for m in hybrid.sharing(shape)}

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone's parameters."""
        return shape.backbone_params
