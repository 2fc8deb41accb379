"""Whether what a search may find can be served, on its very model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from autopeft.anatomy import ModelShape, without_weights
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.merging import biases_lacked
from autopeft.models import ModelSource
from autopeft.readouts import Readout
from autopeft.servable import Servable
from autopeft.space import SearchSpace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Serving:
    """A constraint (None: there is none) on hybrids of a model; no weight is read."""

    asked: Servable | None
    source: ModelSource
    readout: Readout
    shape: ModelShape

    def check(self, space: SearchSpace) -> None:
        """`AutopeftError` where the backbone, or the largest hybrid of a space, cannot be served."""
        if self.asked is None:
            return
        self.asked.check_backbone(self.source.quantise)
        self.asked.check_sizes(space.largest, self.shape, space.where)
        if why := self._no_biases(space.largest):
            raise AutopeftError(f"servable: {why}")

    def takes(self, hybrid: Hybrid) -> bool:
        """Whether a hybrid, of the space or not, can be served as it was asked for."""
        return self.asked is None or (self.asked.serves(hybrid, self.shape) and not self._no_biases(hybrid))

    def _no_biases(self, hybrid: Hybrid) -> str:
        """Why a hybrid that merges could not be saved; else ""."""
        return biases_lacked(self._bare, hybrid) if self.asked and self.asked.kind == "merged" else ""

    @cached_property
    def _bare(self) -> PreTrainedModel:
        config = self.source.config(**self.readout.configuration())
        return without_weights(config, self.source.trust_remote_code, self.readout.auto_class)
