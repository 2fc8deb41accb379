"""Parameters that are kept after training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._base import Cost
from autopeft.hybrid import Hybrid


class KeptParams(Cost):
    """Parameters of the folded hybrid, the task's head left out: of weights that were only needed for training none.

    As many as are trained, where no method folds.
    """

    name: ClassVar[str] = "kept_params"
    description: ClassVar[str] = (
        "parameters that are kept after folding, without the head; a share is of the backbone's"
    )
    unit: ClassVar[str] = "parameters"
    additive: ClassVar[bool] = True

    def of(self, hybrid: Hybrid, shape: ModelShape, length: int) -> int:
        """The sum over layers, and what is shared."""
        hybrid.check(shape)
        own = sum(m.kept_params(shape) for m in hybrid.methods())
        return own + sum(self.once(hybrid, shape).values())

    def once(self, hybrid: Hybrid, shape: ModelShape) -> Mapping[Hashable, int]:
        """Shared weights of the methods as exported."""
        return {(m.name, m.bank_options()): m.exported().shared_params(shape) for m in hybrid.sharing(shape)}

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone's parameters."""
        return shape.backbone_params
