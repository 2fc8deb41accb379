"""Parameters that are kept after training."""

from __future__ import annotations

from typing import ClassVar

from autopeft.anatomy import ModelShape
from autopeft.costs._exported import OfExported
from autopeft.methods import Method


class KeptParams(OfExported):
    """Parameters of the folded hybrid, the task's head left out: of weights that were only needed for training none.

    As many as are trained, where no method folds.
    """

    name: ClassVar[str] = "kept_params"
    description: ClassVar[str] = (
        "parameters that are kept after folding, without the head; a share is of the backbone's"
    )
    unit: ClassVar[str] = "parameters"
    short: ClassVar[str] = "kept"
    additive: ClassVar[bool] = True

    def of_method(self, method: Method, shape: ModelShape) -> int:
        """Its parameters; as trained, where it could be folded alone, but not here."""
        return method.kept_params(shape) if method.exported() == method else method.num_params(shape)

    def of_shared(self, method: Method, shape: ModelShape) -> int:
        """Its shared parameters."""
        return method.shared_params(shape)

    def reference(self, shape: ModelShape, length: int) -> int:
        """The backbone's parameters."""
        return shape.backbone_params
