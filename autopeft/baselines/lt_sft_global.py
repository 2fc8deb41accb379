"""Lottery-ticket sparse fine-tuning over all weights of the backbone. Ansell and others 2022, section 3.1.

Shapes: N entries of the backbone's weights, K of them are changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import Kept, KeptBaseline, check_option, record_of
from autopeft.baselines._sparse import SparselyChanged, halves, largest, restored
from autopeft.engine.backbone import Backbone

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


@dataclass(frozen=True)
class LTSFT(KeptBaseline):
    """Full fine-tuning, the K largest changes kept; then from the checkpoint again, and only those are trained.

    K is `share` of all entries outside the head. Each phase has half of the epochs (one at least), an optimiser and a
    schedule of its own, and begins with the same head. Weight decay pulls a change to zero, and so to the checkpoint.
    """

    name: ClassVar[str] = "lt_sft_global"
    description: ClassVar[str] = "full fine-tuning finds the weights to change; only those are trained (Ansell 2022)"
    paper: ClassVar[str] = "Ansell et al. 2022, section 3.1"
    family: ClassVar[str] = "partial"
    formula: ClassVar[str] = "K values (and K indices stored)"
    usual_rate: ClassVar[float] = 5e-4

    share: float = 0.01

    def __post_init__(self) -> None:
        check_option(self, "share", 0.0, 1.0)

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train both phases; the curve goes on from the first to the second."""
        from autopeft.baselines._training import own_backbone, train_model

        first, second = halves(settings)
        backbone = own_backbone(source, task, settings)
        before = {n: p.detach().clone() for n, p in backbone.model.base_model.named_parameters()}
        dense = train_model(backbone.model.requires_grad_(True), task, first, backbone.heads.values())
        backbone.model.requires_grad_(False)
        backbone.reset_head(settings.seed)
        indices = self._largest(backbone, before)
        model = SparselyChanged(backbone, indices, record_of(self, source, task))
        for parameter in model.trained():
            parameter.requires_grad_(True)
        sparse = train_model(model, task, second, backbone.heads.values())
        return model.fitted(first.epochs, dense, second.epochs, sparse)

    def restore(self, backbone: Backbone, kept: Kept) -> SparselyChanged:
        """The changes and the head that were kept."""
        return restored(backbone, kept)

    @torch.no_grad()
    def _largest(self, backbone: Backbone, before: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The numbers of the K entries that moved most, by weight; the weights are put back."""
        weights = dict(backbone.model.base_model.named_parameters())
        found = largest({name: weights[name] - tensor for name, tensor in before.items()}, self.share)
        for name, tensor in before.items():
            weights[name].copy_(tensor)
        return found
