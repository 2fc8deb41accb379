"""Full fine-tuning: every weight of the backbone is trained. Devlin et al. 2019, section 3.2."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.baselines._base import Baseline, Fitted

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


class FullFineTuning(Baseline):
    """All weights, embeddings included, start from the checkpoint; like the hybrids it is trained without dropout."""

    name: ClassVar[str] = "full_fine_tuning"
    description: ClassVar[str] = "every weight of the backbone is trained (Devlin 2019)"
    paper: ClassVar[str] = "Devlin et al. 2019, section 3.2"
    family: ClassVar[str] = "full"
    formula: ClassVar[str] = "the whole backbone"
    usual_rate: ClassVar[float] = 1e-4

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train a copy of the backbone; nothing is left to merge, so the model is its own merged form."""
        from autopeft.baselines._training import own_backbone, train_model

        backbone = own_backbone(source, task, settings)
        model = backbone.model.requires_grad_(True)
        trained = train_model(model, task, settings, backbone.heads.values())
        model.requires_grad_(False)
        count = backbone.shape.backbone_params
        return Fitted(
            curve=trained.curve,
            model=model,
            trainable_params=count,
            kept_params=count,
            stored_bytes=4 * count,
            seconds_per_epoch=trained.seconds_per_epoch,
            merged=model,
        )
